"""How much structure a JSON body has, found without parsing it.

A parser makes an object of each value, so a few megabytes of empty lists hold the event loop a hundred times longer
than the same megabytes of text. Counting here runs in C over the whole body: about 3 ns per byte at worst.
"""

from itertools import accumulate
from typing import Final

from vicuna.serve.faults import Fault, invalid

MOST_BRACKETS: Final = 32_768
"""Lists and objects; a chat of 10,000 messages has 10,002."""
MOST_STRINGS: Final = 100_000
MOST_COMMAS: Final = 300_000
"""About as many numbers: OpenAI takes 300,000 tokens in one request for embeddings, more than in any other."""
_TEXT: Final = bytes(set(range(256)) - set(b'"[]{},'))
_STEPS: Final = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


def check_shape(body: bytes, depth: int) -> None:
    """Refuse a body that would be slow to parse, or nests deeper than `depth`. What is in strings does not count.

    Raises:
        Fault: it is refused (status 400). Whether the rest is JSON is the parser's to say.
    """
    shallow = body.count(b"[") + body.count(b"{") <= depth
    if shallow and body.count(b",") <= MOST_COMMAS and body.count(b'"') <= 2 * MOST_STRINGS:
        return  # as nearly all are
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    skeleton = bare.translate(None, _TEXT)
    if skeleton.count(b'"') > 2 * MOST_STRINGS:
        raise _too_much("strings", MOST_STRINGS)
    structure = b"".join(skeleton.split(b'"')[::2])
    if structure.count(b",") > MOST_COMMAS:
        raise _too_much("values", MOST_COMMAS)
    brackets = structure.replace(b",", b"")
    if brackets.count(b"[") + brackets.count(b"{") > MOST_BRACKETS:
        raise _too_much("lists and objects", MOST_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > depth:
        raise invalid(f"the request's body nests lists and objects deeper than {depth} levels", code="body_too_deep")


def _too_much(what: str, most: int) -> Fault:
    message = f"the request's body has more than {most} {what}; send it in several requests"
    return invalid(message, code="body_too_complex")
