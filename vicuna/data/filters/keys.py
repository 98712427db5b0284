"""Keys, tokens and passwords in text: what each vendor's look like, and what is assigned to a name such as api_key."""

import re
from collections.abc import Callable

_TOKENS = (
    r"sk-(?:proj-|svcacct-|admin-|ant-(?:api|admin)\d\d-|or-v1-)?[A-Za-z0-9_-]{32,}",  # OpenAI, Anthropic, OpenRouter
    r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}",  # GitHub
    r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"(?:AKIA|ASIA)[A-Z2-7]{16}",  # AWS IAM
    r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{50,}|GOCSPX-[A-Za-z0-9_-]{28}",  # Google API keys and OAuth
    r"xox[abposr]-[A-Za-z0-9-]{20,}|xapp-\d-[A-Za-z0-9-]{20,}",  # Slack
    r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",  # Discord bots
    r"(?:sk|rk|pk)_live_[A-Za-z0-9]{20,}|whsec_[A-Za-z0-9+/=]{32,}",  # Stripe
    r"hf_[A-Za-z0-9]{34,}",  # Hugging Face
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    r"(?:AC|SK)[0-9a-f]{32}|key-[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}",  # Twilio, Mailgun, Mailchimp
    r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{85,}",  # npm, PyPI
    r"dop_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # DigitalOcean, Shopify
    r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}",  # Square
    r"\d{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram bots
    r"eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{20,}",  # JSON Web Tokens (RFC 7519)
)
"""Tokens as their vendors document them. All are long, and a prefix or a checkable form tells them from hashes."""
_LETTERS_ONLY = ("hf_", "AKIA", "ASIA", "ghp_")
"""How tokens begin that may have no digit at all."""
_TOKEN = re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(_TOKENS)})(?![A-Za-z0-9_])")
_LONG = re.compile(r"(?<![A-Za-z0-9_:.+=-])[A-Za-z0-9_:.+=-]{20,4096}(?![A-Za-z0-9_:.+=-])")
"""Words in which a token is looked for; longer ones are files in base64."""
_PRIVATE = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----[A-Za-z0-9+/=\s:,\\.()-]{100,}?-----END (?P=kind)-----"
)
_SHORT_VALUES = ("passw", "Passw", "PASSW", "ecret", "SECRET")
"""Names whose values may be shorter than a token."""
_QUOTED = re.compile(r"[\"'](?P<value>[A-Za-z0-9+/=_.~!@#$%^&*-]{12,200})[\"']")
_NAMED = re.compile(
    r"(?:(?:api|access|auth|secret|private|client|encryption|signing|account)[_-]?(?:access[_-]?)?(?:key|token|secret)|"
    r"passw(?:or)?d|passphrase|pwd|secret|token)[\"']?\s*(?:=>|:=|=|:)\s*\Z",
    re.IGNORECASE,
)
"""What stands before a quoted key or password."""
_BARE = re.compile(r"[=:][ \t]*(?P<value>(?!0x)[A-Za-z0-9+/_~-]{10,200}={0,2})(?![^\s,;&)])")
"""A value without quotes, as in .env files, headers and addresses."""
_SPOKEN = re.compile(
    r"\b(?:my|our) (?:\w+ ){0,3}passw(?:or)?d(?: is|:)\s*(?P<value>[^\s\"'`<>]{7,63}[^\s\"'`<>.,;:!?)])", re.IGNORECASE
)
_HEX = re.compile(r"[0-9a-f]{24,}|[0-9A-F]{24,}")
_KINDS = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^A-Za-z0-9]+")
_BEARER = re.compile(r"[Bb]earer (?P<value>[A-Za-z0-9_.~+/-]{24,}=*)")
_IN_ADDRESS = re.compile(r"://[^\s:/@\"'<>]{0,64}:(?P<value>[^\s/@\"'<>]{6,128})@")

_LONG_WORD = re.compile(rb"a{16,}")
_DIGITS_TOO = bytes(97 if each == 48 else each for each in range(256))

_STAND_IN = re.compile(
    r"your|example|placeholder|sample|dummy|change|replace|insert|secret|passw|my[_-]|test|redacted|token|api[_-]?key|"
    r"xxx|\.\.\.|\*\*\*|123456|abcdef|\$|\{|<|process\.env|getenv",
    re.IGNORECASE,
)
"""What people write where a real one would stand."""
_NAME_AND_NUMBER = re.compile(r"[A-Za-z_.-]+\d{1,4}")

Place = Callable[[str], str]
"""What stands in place of a find."""


def may_stand(text: str, shape: bytes) -> bool:
    """Whether a text may hold a key, by a cheap look.

    Args:
        text: any text.
        shape: the same with a for each ASCII letter and 0 for each digit.
    """
    if b"a" * 16 in shape and any(start in text for start in _LETTERS_ONLY):
        return True
    if b"a0" not in shape and b"0a" not in shape:
        return False
    return _has_long_mix(shape) or _has_address(text) or any(name in text for name in _SHORT_VALUES)


def _has_long_mix(shape: bytes) -> bool:
    """Whether a word of 16 letters and digits or more has both."""
    words = shape.translate(_DIGITS_TOO)
    if b"a" * 16 not in words:
        return False
    found = (shape[match.start() : match.end()] for match in _LONG_WORD.finditer(words))
    return any(b"0" in word and b"a" in word for word in found)


def _has_address(text: str) -> bool:
    return "://" in text and "@" in text and _IN_ADDRESS.search(text) is not None


def replaced(text: str, place: Place) -> str:
    """A text with `place(key)` for each key, token and password, and with all that is around them."""
    if "PRIVATE KEY" in text:
        text = _PRIVATE.sub(lambda match: place(match[0]), text)
    text = _LONG.sub(lambda match: _TOKEN.sub(lambda token: _token(token[0], place), match[0]), text)
    if _has_address(text):
        text = _IN_ADDRESS.sub(lambda match: _value(match, place), text)
    if "earer " in text:
        text = _BEARER.sub(lambda match: _value(match, place), text)
    text = _QUOTED.sub(lambda match: _assigned(match, place), text)
    text = _BARE.sub(lambda match: _assigned(match, place) if _is_mixed(match["value"]) else match[0], text)
    return _SPOKEN.sub(lambda match: _value(match, place) if _is_mixed(match["value"]) else match[0], text)


def _token(token: str, place: Place) -> str:
    tail = token[-24:]
    stand_in = len(set(tail)) < 8 or "EXAMPLE" in token or "xxxx" in token.lower() or "1234567890" in tail
    return token if stand_in else place(token)


def _assigned(match: re.Match[str], place: Place) -> str:
    before = match.string[max(0, match.start() - 48) : match.start("value")].rstrip("\"'")
    return _value(match, place) if _NAMED.search(before) else match[0]


def _is_mixed(value: str) -> bool:
    """Whether letters and digits change so often that it is no name: `k3Lm9Qr2Tz7V`, not `accessTokenV2`."""
    return _HEX.fullmatch(value) is not None or 3 * len(_KINDS.findall(value)) > len(value)


def _value(match: re.Match[str], place: Place) -> str:
    """The match with its value replaced, if that looks drawn at random: letters and digits, many different ones."""
    value, whole = match["value"], match[0]
    digits = sum(each.isdigit() for each in value)
    letters = sum(each.isalpha() for each in value)
    drawn = digits >= 2 and letters >= 4 and len(set(value)) >= 8 and not _NAME_AND_NUMBER.fullmatch(value)
    if not drawn or _STAND_IN.search(value):
        return whole
    start, end = match.start("value") - match.start(), match.end("value") - match.start()
    return whole[:start] + place(value) + whole[end:]
