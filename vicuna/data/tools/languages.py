"""The language of a conversation, as the language stage of `clean` tells it."""

from collections.abc import Callable

from vicuna.conversation import Conversation


def teller() -> Callable[[Conversation], str]:
    """A function that gives a conversation's ISO 639-1 code, or "" where it has too little prose to tell."""
    from vicuna.data.chat import from_conversation
    from vicuna.data.config import LanguageConfig
    from vicuna.data.filters.language import kept

    config = LanguageConfig()
    return lambda conversation: kept(from_conversation(conversation, "", ""), config)[1]
