"""Real texts that any machine with PyPI has: READMEs of installed packages, and the CommonMark standard's examples."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = "markdown-it-py==4.3.0"
"""Its source archive holds the standard's 652 examples (CommonMark 0.31.2) as JSON."""


def readmes(least: int = 200, most: int = 6000) -> list[str]:
    """READMEs in markdown, cut before headings into pieces of some characters, without those that hold HTML."""
    found: dict[str, None] = {}
    for each in sorted(importlib.metadata.distributions(), key=lambda each: each.name.lower()):
        about = each.metadata.json
        if "markdown" not in str(about.get("description_content_type", "")):
            continue
        text = str(about.get("description", ""))
        for piece in re.split(r"\n(?=#{1,3} )", text.replace("\r\n", "\n")):
            if least <= len(piece.strip()) <= most and _is_plain(piece.strip()):
                found[piece.strip()] = None
    return list(found)


def _is_plain(markdown: str) -> bool:
    """No HTML, no private marks, and no links by reference, whose target may be in another piece."""
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    if re.search("<[a-zA-Z!/]|&[a-z]+;|[\ue000-\uf8ff]", outside):
        return False
    return not re.search(r"\]\[|^\[[^\]]+\]:", outside, re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """One example of the standard."""

    number: int
    section: str
    html: str

    @property
    def raw_html(self) -> bool:
        """Whether it is about HTML inside markdown."""
        return self.section in ("HTML blocks", "Raw HTML")


def commonmark(folder: Path) -> list[Example]:
    """The standard's examples, fetched from PyPI with pip into a folder at the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    archive_path = folder / f"markdown_it_py-{SOURCE.split('==')[1]}.tar.gz"
    if not archive_path.exists():
        words = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), SOURCE]
        subprocess.run([sys.executable, *words], check=True)
    with tarfile.open(archive_path) as archive:
        name = next(each for each in archive.getnames() if each.endswith("test_cmark_spec/commonmark.json"))
        file = archive.extractfile(name)
        assert file is not None
        rows = json.load(file)
    return [Example(row["example"], row["section"], row["html"]) for row in rows]
