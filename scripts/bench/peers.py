"""Make the peers' virtual environments from PyPI, one each, so that they are measured as they are published.

    .venv/bin/python scripts/bench/peers.py --out DIR      (about 7 GB; a few minutes, once)

The other scripts take DIR as `--peers DIR`. fschat's own list of requirements pulls its whole server in and is left
out; what its data and training programs import is named here. Its `optional_clean` needs polyglot, pycld2 and
PyICU, and PyICU is built from source: on Debian or Ubuntu it wants
`apt-get install build-essential pkg-config libicu-dev python3-dev`.
Where that fails, this script says so, and the whole pipeline is measured without `optional_clean`.
"""

import argparse
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""Named exactly: left to itself, pip weighs builds of several gigabytes."""


@dataclass(frozen=True)
class Peer:
    """Another project's program, and how to install it."""

    packages: tuple[tuple[str, ...], ...]
    """Arguments of one `pip install` after the other."""
    converter: str = ""
    """`module:function` from HTML to markdown, for those that have one."""
    optional: tuple[str, ...] = ()
    """Packages that need more than PyPI; without them the peer does less."""


PEERS = {
    "fschat 0.2.36": Peer(
        packages=(
            (TORCH,),
            ("transformers==4.57.6", "sentencepiece==0.2.3", "protobuf", "beautifulsoup4==4.15.0",
             "markdownify==0.11.6", "tqdm", "requests", "numpy", "accelerate==1.15.0", "psutil"),
            ("--no-deps", "fschat==0.2.36"),
        ),
        converter="fastchat.data.clean_sharegpt:html_to_markdown",
        optional=("polyglot==16.7.4", "pycld2==0.42", "PyICU"),
    ),
    "fschat 0.2.36 serve": Peer((
        ("pydantic==1.10.27", "fastapi==0.125.0", "uvicorn==0.54.0", "aiohttp==3.14.5", "httpx==0.28.1", "requests",
         "numpy", "tiktoken", "shortuuid", "markdown2", "nh3"),
        ("--no-deps", "fschat==0.2.36"),
    )),
    "fschat 0.2.36 engine": Peer((
        (TORCH,),
        ("fschat[model_worker]==0.2.36", "transformers==4.57.6", "peft==0.18.1", "pydantic==1.10.27",
         "fastapi==0.125.0", "uvicorn==0.54.0", "aiohttp==3.14.5", "httpx==0.28.1"),
    )),
    "transformers 5.23.0 serve": Peer(((TORCH,), ("transformers[serving]==5.23.0",))),
    "xllamacpp 2026.10.11549": Peer((
        ("xllamacpp==2026.10.11549", "gguf==0.19.0", "safetensors==0.8.0", "numpy==2.4.6"),
    )),
    "markdownify 1.2.3": Peer((("markdownify==1.2.3",),), "markdownify:markdownify"),
    "html-to-markdown 3.20.0": Peer((("html-to-markdown==3.20.0",),), "html_to_markdown:convert"),
    "trl 1.16.0": Peer(((TORCH,), ("transformers==5.23.0", "trl==1.16.0", "accelerate==1.15.0", "datasets==5.2.0"))),
}  # fmt: skip
FASTCHAT = "fschat 0.2.36"
FASTCHAT_SERVE = "fschat 0.2.36 serve"
"""Its controller and API server alone, with the versions of their day: both fail with pydantic 2."""
FASTCHAT_ENGINE = "fschat 0.2.36 engine"
"""The same with its model worker, which fails with transformers 5."""
TRANSFORMERS_SERVE = "transformers 5.23.0 serve"
LLAMA_CPP = "xllamacpp 2026.10.11549"
"""llama.cpp's server inside a wheel, and what writes a model in its format."""
TRL = "trl 1.16.0"
"""With transformers' own trainer."""


def python_of(folder: str | Path, name: str) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        SystemExit: it was not made yet.
    """
    found = Path(folder) / name.replace(" ", "-") / "bin" / "python"
    if not found.exists():
        sys.exit(f"error: {folder} has no environment for {name}; make it: {Path(__file__).name} --out {folder}")
    return found


def tells_languages(folder: str | Path) -> bool:
    """Whether FastChat's `optional_clean` can run."""
    test = [str(python_of(folder, FASTCHAT)), "-W", "ignore", "-c", "import fastchat.data.optional_clean"]
    return subprocess.run(test, capture_output=True).returncode == 0


def make(folder: Path, name: str) -> dict[str, str]:
    """Make one environment, or complete it; returns what is in it, by name and version."""
    peer, place = PEERS[name], folder / name.replace(" ", "-")
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    for words in peer.packages:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
    if peer.optional:
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.optional])
        if done.returncode:
            print(f"{name}: without {', '.join(peer.optional)}, which could not be installed", file=sys.stderr)
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    return {each["name"]: each["version"] for each in json.loads(listed)}


def main() -> None:
    """Make all environments and write down their versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for the environments")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    versions = {name: make(options.out, name) for name in PEERS}
    (options.out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    for name in PEERS:
        print(f"{name}: {python_of(options.out, name)}")


if __name__ == "__main__":
    main()
