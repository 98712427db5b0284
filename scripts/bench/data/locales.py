"""Sentences in many languages, written by people: the translations that Django's package holds. Fetched from PyPI."""

import gettext
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

SOURCE = "django==5.2.8"
LANGUAGES = {
    "ar": "ar", "bg": "bg", "cs": "cs", "da": "da", "de": "de", "el": "el", "en": "en", "es": "es", "fa": "fa",
    "fi": "fi", "fr": "fr", "he": "he", "hi": "hi", "hu": "hu", "id": "id", "it": "it", "ja": "ja", "ko": "ko",
    "nl": "nl", "pl": "pl", "pt": "pt", "pt_BR": "pt", "ro": "ro", "ru": "ru", "sv": "sv", "th": "th", "tr": "tr",
    "uk": "uk", "vi": "vi", "zh_Hans": "zh", "zh_Hant": "zh",
}  # fmt: skip
"""Django's name of a language -> ISO 639-1."""
_CATALOGUE = re.compile(r"/locale/([^/]+)/LC_MESSAGES/django\.mo$")
_SLOTS = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}|<[^>]+>|&\w+;|https?://\S+")


def sentences(folder: Path, longer: int = 40) -> dict[str, list[str]]:
    """ISO 639-1 code -> distinct texts of more characters than `longer`; English ones are the originals."""
    found: dict[str, dict[str, None]] = {code: {} for code in LANGUAGES.values()}
    with zipfile.ZipFile(_archive(folder)) as archive:
        for name in sorted(archive.namelist()):
            place = _CATALOGUE.search(name)
            if place and place[1] in LANGUAGES:
                code = LANGUAGES[place[1]]
                catalogue = gettext.GNUTranslations(io.BytesIO(archive.read(name)))
                pairs: dict[object, str] = vars(catalogue)["_catalog"]
                for original, text in pairs.items():
                    english = original if isinstance(original, str) else str(original[0])  # type: ignore[index]
                    if english and text != english:
                        found[code] |= _told(text, longer)
                        found["en"] |= _told(english, longer)
    return {code: list(texts) for code, texts in found.items()}


def _told(text: str, longer: int) -> dict[str, None]:
    text = " ".join(_SLOTS.sub(" ", text).replace("\x04", " ").split())
    return {text: None} if len(text) > longer else {}


def _archive(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("[Dd]jango-*.whl")):
        words = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            str(folder),
            SOURCE,
        ]
        subprocess.run([sys.executable, *words], check=True)
    return next(folder.glob("[Dd]jango-*.whl"))
