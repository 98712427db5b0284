"""Personal data → typed placeholders: [EMAIL], [PHONE], [CARD], [IP], [KEY]."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from vicuna.data.chat import Chat
from vicuna.data.config import PersonalConfig, PersonalKind
from vicuna.data.filters import keys, phones

Place = Callable[[str], str]
"""What stands in place of a find."""

_L = r"A-Za-z0-9\u00c0-\u024f"
"""Letters and digits of addresses: those of Latin script, so that Chinese may stand next to one."""
_DOMAIN = re.compile(
    rf"(?a)@(?P<domain>(?:[{_L}](?:[{_L}-]{{0,61}}[{_L}])?\.){{1,5}}[A-Za-z]{{2,18}})(?![\w@(-])(?!\.\w)"
)
_LOCAL = re.compile(
    rf"(?a)(?:(?<![{_L}_.%+/=&?$-])|(?<=mail=)|(?<=user=)|(?<=login=)|(?<=contact=))"
    rf"[{_L}](?:[{_L}._%+-]{{0,62}}[{_L}_+-])?\Z"
)
_NO_DOMAIN = re.compile(
    r"(?:.*\.)?(?:example|test|invalid|localhost|localdomain|local|lan|internal)|"  # RFC 2606, 6761, 6762
    r"(?:.*\.)?example\.[a-z]{2,3}|"
    r"(?:.*\.)?(?:your|my|the|some)-?(?:domain|company|site|website|email|organi[sz]ation|server|app|host)\.\w+|"
    r"(?:domain|company|email|website|site|server|test|host|abc|xyz|acme|foo|bar)\.(?:com|org|net)|"
    r".*\.(?:png|jpe?g|gif|svg|webp|css|js|ts|py|html?|json|md|txt|sh|service|timer|target|mount|socket)",
    re.IGNORECASE | re.ASCII,
)
"""Domains that belong to nobody, and what is no domain: `logo@2x.png`, `getty@tty1.service`."""
_NO_ONE = re.compile(
    r"(?:no|do-?not)[._-]?reply|mailer-daemon|git|your.*|my[._-]?e?mail|you|user(?:name)?|e?mail|name|someone|"
    r"somebody|example|test|foo|bar|recipient|sender|first[._]last|j(?:ohn|ane)?[._]?doe",
    re.IGNORECASE | re.ASCII,
)
"""Local parts that mean no one in particular."""

_IPV4 = re.compile(r"(?a)(?<![\w.<>~^-])(?<![^/]/)(?<![=<>!~]=)\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?a)(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_VERSION = re.compile(
    r"(?:versions?|release[ds]?|builds?|updates?|upgrade[ds]?|firmware|driver|ver|section|chapter|clause|net ?mask|§|"
    r"\bv)[\s:=\"'`(.]*(?:\d[\w.]*(?:\s*(?:,|-|→|->)\s*|\s+(?:to|and|or)\s+|\s+))*\Z",
    re.IGNORECASE | re.ASCII,
)
"""What stands before four numbers that are a version, a section or a mask."""
_IS_ADDRESS = re.compile(
    r"(?:\bip(?:v4)?(?:[ _-]?addr(?:ess)?)?|\bping|\binet|\b(?:ssh|scp|sftp)\b[^\n]{0,40}@)(?:\s+is)?[\s:=\"'`(]*\Z",
    re.IGNORECASE | re.ASCII,
)
"""What stands before four small numbers that are an address all the same."""
_STAND_INS = frozenset({"1.2.3.4", "1.2.3.5", "2.3.4.5", "4.3.2.1", "5.6.7.8", "9.8.7.6", "11.22.33.44", "12.34.56.78"})
"""Numbers that people write for any address."""
_NAME_SERVERS = frozenset(
    {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "208.67.222.222", "208.67.220.220"}
    | {"2001:4860:4860::8888", "2001:4860:4860::8844", "2606:4700:4700::1111", "2606:4700:4700::1001"}
)
"""Public name servers, which stand in countless instructions and are nobody's own."""

_CARD = re.compile(
    r"(?a)(?<![\w.+/-])(?:(?<!\d{4} )"
    r"(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})(?! \d{4})|"
    r"\d{14,16})(?![\w-]|\.\d)"  # longer ones without gaps are hashes as a rule
)
_ISSUED = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|"  # Visa, Mastercard
    r"3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|"  # Amex, Diners, JCB
    r"6\d{15,18}|5[0678]\d{14,17}"  # Discover, UnionPay, Maestro
)
"""How card numbers begin, and how long they are."""
_TEST_CARDS = frozenset({
    "4242424242424242", "4111111111111111", "4012888888881881", "4000000000000002", "4000056655665556",
    "5555555555554444", "5105105105105100", "2223003122003222", "378282246310005", "371449635398431",
    "6011111111111117", "6011000990139424", "30569309025904", "3056930009020004", "3530111333300000",
    "3566002020360505", "6200000000000005", "4222222222222",
})  # fmt: skip
"""Numbers that payment services publish for tests."""

_SHAPES = bytes(48 if 48 <= each < 58 else 97 if each < 128 and chr(each).isalpha() else each for each in range(256))
"""Digits → 0, letters → a: a text's shape, in which numbers and keys are known by their form."""
_BETWEEN = b" .-()/"
"""What stands between the digits of phone and card numbers and of addresses."""
_HEX = b"0123456789abcdefABCDEF"
_CARD_SHAPES = (b"0000 0000 0000", b"0000-0000-0000", b"0000 000000 0", b"0000-000000-0", b"0000000000000")


def scrubbed(chat: Chat, config: PersonalConfig) -> tuple[Chat, Counter[str]]:
    """Replace personal data in all messages; see `scrubbed_text`.

    Returns:
        the chat, and how many of each kind were replaced (email, phone, card, ip, key).
    """
    texts = [text for each in chat.rounds for text in (*each.users, *each.answers)]
    if chat.system is not None:
        texts.append(chat.system)
    found: Counter[str] = Counter()
    if not _likely("\n".join(texts), config):
        return chat, found

    def clean(text: str) -> str:
        return _clean(text, config, found)

    rounds = tuple(
        replace(each, users=tuple(map(clean, each.users)), answers=tuple(map(clean, each.answers)))
        for each in chat.rounds
    )
    system = None if chat.system is None else clean(chat.system)
    return (replace(chat, rounds=rounds, system=system) if found else chat), found


def scrubbed_text(text: str, config: PersonalConfig) -> tuple[str, Counter[str]]:
    """Replace personal data in one text. Doing so again changes nothing.

    Left as they are, because they are nobody's: e-mail addresses at example.com and its like, of noreply and of
    your.name; private, loopback and documentation networks, well-known name servers, versions (1.2.3.4); made-up phone
    numbers (555-0123); card numbers that are published for tests or whose check digit is wrong; stand-ins for keys.

    Returns:
        the text, and how many of each kind were replaced (email, phone, card, ip, key).
    """
    found: Counter[str] = Counter()
    return _clean(text, config, found), found


def _likely(text: str, config: PersonalConfig) -> list[PersonalKind]:
    """Kinds of which a text may have something, by a cheap look, in the order in which they are replaced."""
    data = text.encode("ascii", "replace")
    shape = data.translate(_SHAPES)
    run = shape.translate(None, _BETWEEN)
    digits = b"000000" in run
    may: dict[PersonalKind, bool] = {
        "key": keys.may_stand(text, shape),
        "email": "@" in text and _DOMAIN.search(text) is not None,
        "card": digits and any(each in shape for each in _CARD_SHAPES),
        "ip": (b"0000" in run and shape.count(b"0.0") > 1) or _may_hold_ipv6(shape, data),
        "phone": b"0000000" in run and phones.may_stand(text, shape),
    }
    return [kind for kind, likely in may.items() if likely and kind in config.kinds]


def _may_hold_ipv6(shape: bytes, data: bytes) -> bool:
    groups = b"0:0" in shape or b"0:a" in shape or b"0::" in shape
    return groups and b":::" in data.translate(None, _HEX)


def _clean(text: str, config: PersonalConfig, found: Counter[str]) -> str:
    while True:  # what stood next to a find may be one itself once that is gone
        before = text
        for kind in _likely(text, config):
            text = _REPLACE[kind](text, config, _counting(kind, found))
        if text == before:
            return text


def _counting(kind: PersonalKind, found: Counter[str]) -> Place:
    def place(_: str) -> str:
        found[kind] += 1
        return f"[{kind.upper()}]"

    return place


# ------------------------------------------------------------------------------------------------ kind by kind
def _emails(text: str, config: PersonalConfig, place: Place) -> str:
    parts: list[str] = []
    done = 0
    for match in _DOMAIN.finditer(text):
        local = _LOCAL.search(text, max(done, match.start() - 65), match.start())
        if local and not _NO_ONE.fullmatch(local[0]) and not _NO_DOMAIN.fullmatch(match["domain"]):
            parts += [text[done : local.start()], place(local[0] + match[0])]
            done = match.end()
    return "".join(parts) + text[done:] if parts else text


def _cards(text: str, config: PersonalConfig, place: Place) -> str:
    def judge(match: re.Match[str]) -> str:
        number = re.sub(r"\D", "", match[0])
        real = _ISSUED.fullmatch(number) and _checks(number) and number not in _TEST_CARDS
        return place(number) if real and len(set(number)) > 3 else match[0]

    return _CARD.sub(judge, text)


def _checks(number: str) -> bool:
    """Whether the last digit is the check digit of the others (Luhn's formula, ISO/IEC 7812-1, annex B)."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return (doubled + sum(map(int, number[::-2]))) % 10 == 0


def _addresses(text: str, config: PersonalConfig, place: Place) -> str:
    def judge(match: re.Match[str]) -> str:
        return place(match[0]) if _is_somebodys(match[0]) and not _is_version(match) else match[0]

    text = _IPV4.sub(judge, text)
    return _IPV6.sub(judge, text) if text.count(":") > 1 else text


def _is_somebodys(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.rstrip(":"))
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and str(address) not in _NAME_SERVERS | _STAND_INS


def _is_version(match: re.Match[str]) -> bool:
    """Whether four numbers are a version: a word before says so, or hardly any of them has two digits."""
    if ":" in match[0]:
        return False
    before = match.string[max(0, match.start() - 60) : match.start()]
    few = sum(len(part) > 1 for part in match[0].split(".")) < 2
    return (few and not _IS_ADDRESS.search(before)) or _VERSION.search(before) is not None


def _phones(text: str, config: PersonalConfig, place: Place) -> str:
    return phones.replaced(text, config.regions, place)


def _keys(text: str, config: PersonalConfig, place: Place) -> str:
    return keys.replaced(text, place)


_REPLACE: dict[PersonalKind, Callable[[str, PersonalConfig, Place], str]] = {
    "key": _keys, "email": _emails, "card": _cards, "ip": _addresses, "phone": _phones
}  # fmt: skip
