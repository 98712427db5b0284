"""Models by their names on the Hugging Face hub: from the cache, from a hub, and one line where it is not to be had."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vicuna.errors import InputError
from vicuna.models.load import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}", "picture.png": b"large"}
REFUSALS = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "revision": (404, "RevisionNotFound")}
ASK = """
import sys
from vicuna.errors import VicunaError
from vicuna.models.load import fetch
for name in sys.argv[1:]:
    try:
        print(fetch(name))
    except VicunaError as error:
        print("error:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """What of a hub's HTTP interface a download needs, for one model and some refusals."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        repo = next((each for each in (*REFUSALS, "whole") if f"/org/{each}/" in f"{self.path}/"), "missing")
        name = self.path.split("/")[-1].split("?")[0]
        if repo in REFUSALS:
            status, code = REFUSALS[repo]
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"}, body)
        elif "/resolve/" in self.path and name in FILES:
            self._send(200, FILES[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}-1"'}, body)
        elif "/tree/" in self.path:
            rows = [{"type": "file", "path": each, "size": len(data), "oid": each} for each, data in FILES.items()]
            self._send(200, json.dumps(rows).encode(), {}, body)
        else:
            facts = {"id": "org/whole", "sha": COMMIT, "siblings": [{"rfilename": each} for each in FILES]}
            self._send(200, json.dumps(facts).encode(), {}, body)

    def _send(self, status, data, headers, body):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(home: Path, *names: str, **environment: str) -> list[str]:
    """What `fetch` says to each name, in a process of its own: the hub's settings are read when it starts."""
    found = subprocess.run(
        [sys.executable, "-c", ASK, *names], check=True, capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment},
    )  # fmt: skip
    return found.stdout.splitlines()


def cached(home: Path, name: str, files: dict[str, bytes]) -> Path:
    """A model in the cache, in the hub library's layout."""
    repo = home / "hub" / f"models--{name.replace('/', '--')}"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for each, data in files.items():
        (folder / each).write_bytes(data)
    return folder


def test_a_folder_is_itself(tmp_path):
    assert fetch(str(tmp_path)) == tmp_path


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/base", str(tmp_path / "none"), "three/part/name", "no spaces/here", "plain"):
        with pytest.raises(InputError, match=f"^{path} is not a folder"):
            fetch(path)


def test_without_a_network_the_cache_serves_and_all_else_is_one_line(tmp_path):
    folder = cached(tmp_path, "org/name", FILES)
    there, pinned, unknown, revision = ask(
        tmp_path, "org/name", f"org/name@{COMMIT}", "org/other", "org/name@v2", HF_HUB_OFFLINE="1"
    )
    assert there == pinned == str(folder)
    said = "is neither a folder here nor in the hub's cache, and it could not be fetched (HF_HUB_OFFLINE is set)"
    assert unknown == f"error: org/other {said}; where there is a network, `hf download org/other` brings it there"
    assert "`hf download org/name --revision v2`" in revision


def test_an_unreachable_hub_is_one_line(tmp_path):
    (said,) = ask(tmp_path, "org/name", HF_ENDPOINT="http://127.0.0.1:9")
    assert "could not be fetched (ConnectError: " in said


def test_a_model_comes_from_the_hub_without_what_nobody_needs(tmp_path, hub):
    folder, gated, missing, revision = ask(
        tmp_path, "org/whole", "org/gated", "org/missing", "org/revision@v9", HF_ENDPOINT=hub
    )
    assert {each.name: each.read_bytes() for each in Path(folder).iterdir()} == {
        name: data for name, data in FILES.items() if name != "picture.png"
    }
    assert "accept its licence at https://huggingface.co/org/gated, then set HF_TOKEN" in gated
    assert (
        "org/missing is neither a folder here nor a public model on the hub; for a private one set HF_TOKEN" in missing
    )
    assert revision == "error: the hub has org/revision, but no revision v9 of it"
