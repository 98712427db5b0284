"""Conversations that are the same: exact duplicates on the normalised text of the whole conversation."""

import hashlib
import unicodedata

from vicuna.data.chat import Chat, Drop
from vicuna.data.filters import Result


def key(chat: Chat) -> bytes:
    """16 bytes that are equal for conversations which differ in white space, letter case and Unicode form only."""
    digest = hashlib.blake2b(digest_size=16)
    texts = [chat.system or ""] + [text for each in chat.rounds for text in (each.user, each.answer)]
    for text in texts:
        plain = unicodedata.normalize("NFC", " ".join(text.split()).casefold())
        digest.update(plain.encode("utf-8", "surrogatepass") + b"\0")
    return digest.digest()


class Seen:
    """The conversations so far; the first of several equal ones stays. Takes about 200 bytes for each."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}

    def first(self, chat: Chat, chat_key: bytes) -> Result:
        """Keep the chat if no equal one came before; chats must come in input order."""
        earlier = self._ids.get(chat_key)
        if earlier is None:
            self._ids[chat_key] = chat.id
            return chat, []
        return chat.with_rounds(()), [Drop("dedup", "exact duplicate", earlier, each) for each in chat.rounds]
