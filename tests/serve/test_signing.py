"""The fleet's secret: calls, replies and challenges."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.errors import ConfigError
from vicuna.serve.faults import Fault
from vicuna.serve.net import signing
from vicuna.serve.net.secret import load_secret, make_secret
from vicuna.serve.net.signing import SEAL, SIGNATURE, WINDOW, Signer
from vicuna.serve.protocol import ADDRESSEE

SECRET = b"not a secret to anybody"
WORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def code(checked: Signer, headers: dict[str, str], body: bytes = b"{}", path: str = "/generate") -> str:
    """The code of the refusal; "" where the call is taken."""
    try:
        checked.check("POST", path, body, headers)
    except Fault as fault:
        return f"{fault.code}" if fault.status == 401 else f"status {fault.status}"
    return ""


def pair() -> tuple[Signer, Signer, Clock]:
    clock = Clock()
    return Signer(SECRET, clock), Signer(SECRET, clock), clock


# ------------------------------------------------------------------------------------------- calls
def test_a_signed_call_is_taken_once():
    here, there, _ = pair()
    headers = here.headers("POST", "/generate", b"{}")
    assert code(there, headers) == ""
    assert code(there, headers) == "replayed_call"
    assert code(there, here.headers("POST", "/generate", b"{}")) == ""


def test_a_call_without_a_signature_or_with_another_secret_is_refused():
    _, there, clock = pair()
    assert code(there, {}) == "unsigned_call"
    assert code(there, Signer(b"the secret of others", clock).headers("POST", "/generate", b"{}")) == "wrong_secret"


@given(method=WORDS, path=WORDS, to=WORDS, body=st.binary(max_size=50), other=WORDS, tail=st.binary(min_size=1))
def test_whatever_part_of_a_call_is_changed_it_is_refused(method, path, to, body, other, tail):
    here, there, _ = pair()
    headers = {ADDRESSEE: to, **here.headers(method, path, body, to)}

    def refused(method: str, path: str, body: bytes, headers: dict[str, str]) -> bool:
        with pytest.raises(Fault) as caught:
            there.check(method, path, body, headers)
        return caught.value.code == "wrong_secret"

    if other != method:
        assert refused(other, path, body, headers)
    if other != path:
        assert refused(method, other, body, headers)
    if other != to:
        assert refused(method, path, body, headers | {ADDRESSEE: other})
    there.check(method, path, body, headers)
    again = {ADDRESSEE: to, **here.headers(method, path, body, to)}
    assert refused(method, path, body + tail, again)


@given(st.data())
def test_whatever_character_of_a_signature_is_changed_it_is_refused(data):
    here, there, _ = pair()
    signature = here.headers("POST", "/generate", b"{}")[SIGNATURE]
    place = data.draw(st.integers(0, len(signature) - 1))
    letter = data.draw(st.characters(codec="latin-1").filter(lambda letter: letter != signature[place]))
    altered = signature[:place] + letter + signature[place + 1 :]
    assert code(there, {SIGNATURE: altered}) == "wrong_secret"
    assert code(there, {SIGNATURE: data.draw(st.text(st.characters(codec="latin-1")))}) == "wrong_secret"
    assert code(there, {SIGNATURE: signature}) == ""


def test_a_clock_that_is_wrong_is_named_with_the_other_one():
    here, there, clock = pair()
    headers = here.headers("POST", "/generate", b"{}")
    for drift in (WINDOW + 1, -WINDOW - 1):
        clock.now += drift
        with pytest.raises(Fault, match=r"08:00:00 UTC by the caller's clock .* by this machine's") as caught:
            there.check("POST", "/generate", b"{}", headers)
        assert caught.value.code == "wrong_clock"
        clock.now -= drift
    clock.now += WINDOW - 1
    assert code(there, headers) == ""


@given(st.lists(st.floats(-WINDOW, WINDOW), min_size=1, max_size=60), st.integers(1, 20))
def test_no_call_is_taken_twice_whatever_the_clocks_do_and_however_few_are_remembered(drifts, memory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "_MOST_NONCES", memory)
        there_clock, here_clock = Clock(), Clock()
        here, there = Signer(SECRET, here_clock), Signer(SECRET, there_clock)
        taken = []
        for drift in drifts:
            here_clock.now = there_clock.now + drift
            headers = here.headers("POST", "/generate", b"{}")
            if code(there, headers) == "":
                taken.append(headers)
            there_clock.now += abs(drift) / 3
            assert all(code(there, each) != "" for each in taken)
            assert there._nonces._count == sum(map(len, there._nonces._spans.values())) <= memory


def test_old_calls_are_forgotten():
    here, there, clock = pair()
    for _ in range(200):
        clock.now += 1
        assert code(there, here.headers("POST", "/generate", b"{}")) == ""
    assert there._nonces._count <= 2 * WINDOW


def test_without_a_secret_nothing_is_signed_and_a_member_of_a_fleet_that_has_one_is_told():
    _, there, _ = pair()
    plain = Signer()
    assert plain.headers("POST", "/generate", b"{}") == {}
    assert plain.proof("abc", "w-1") == ""
    assert plain.proves("abc", "w-1", "")
    assert plain.sealed({}, {})
    assert code(plain, {}) == ""
    assert code(plain, there.headers("POST", "/generate", b"{}")) == "no_secret"
    assert code(plain, {"origin": "https://page.example"}) == "unsigned_call"


# ------------------------------------------------------------------------------------------- replies and challenges
def test_a_reply_is_sealed_by_whom_the_call_was_for_and_by_nobody_else():
    here, there, clock = pair()
    sent, other = here.headers("POST", "/generate", b"{}", to="w-1"), here.headers("POST", "/generate", b"{}", to="w-1")
    assert here.sealed(sent, there.seal(sent, "w-1"), "w-1")
    assert not here.sealed(sent, there.seal(sent, "w-2"), "w-1")
    assert not here.sealed(sent, there.seal(other, "w-1"), "w-1")
    assert not here.sealed(sent, Signer(b"the secret of others", clock).seal(sent, "w-1"), "w-1")
    assert not here.sealed(sent, {}, "w-1")
    assert not here.sealed(sent, {SEAL: "é"}, "w-1")


def test_a_challenge_is_answered_by_the_worker_that_was_asked():
    here, there, clock = pair()
    nonce = here.nonce()
    assert here.proves(nonce, "w-1", there.proof(nonce, "w-1"))
    assert not here.proves(nonce, "w-1", there.proof(nonce, "w-2"))
    assert not here.proves(nonce, "w-1", there.proof(here.nonce(), "w-1"))
    assert not here.proves(nonce, "w-1", Signer(b"the secret of others", clock).proof(nonce, "w-1"))
    assert not here.proves(nonce, "w-1", "")


@pytest.mark.parametrize("nonce", ["", "a b", "a\nb", "ä", "a" * 65])
def test_nobody_chooses_what_a_worker_signs(nonce):
    with pytest.raises(Fault, match="a challenge is"):
        Signer(SECRET).proof(nonce, "w-1")


# ------------------------------------------------------------------------------------------- where it comes from
def test_the_secret_is_in_no_text_about_the_signer():
    signer = Signer(SECRET)
    assert SECRET.decode() not in f"{signer!r}{signer}{vars(signer)['_nonces']!r}"
    assert SECRET.decode() not in str(signer.headers("POST", "/", b"")) + signer.proof("abc", "w-1")


def test_a_made_secret_is_for_its_owner_only_and_is_never_replaced(tmp_path):
    path = tmp_path / "secret"
    make_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().strip()) == 64
    here, there = load_secret(str(path), "0.0.0.0", "--secret"), Signer(path.read_bytes().strip())
    there.check("POST", "/", b"", here.headers("POST", "/", b""))
    with pytest.raises(ConfigError, match="exists already"):
        make_secret(path)
    with pytest.raises(ConfigError, match="cannot write"):
        make_secret(tmp_path / "no" / "where")


def test_the_environment_holds_the_secret_where_no_file_does(tmp_path, monkeypatch):
    monkeypatch.setenv(signing.VARIABLE, SECRET.decode() + "\n")
    Signer(SECRET).check("POST", "/", b"", load_secret("", "0.0.0.0", "--secret").headers("POST", "/", b""))
    (tmp_path / "secret").write_text("that of the file counts more\n")
    from_file = load_secret(str(tmp_path / "secret"), "0.0.0.0", "--secret")
    Signer(b"that of the file counts more").check("POST", "/", b"", from_file.headers("POST", "/", b""))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "my.name"])
def test_who_listens_to_other_machines_needs_a_secret(host, monkeypatch):
    monkeypatch.delenv(signing.VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"vicuna.serve secret FILE.*--fleet.secret.*VICUNA_FLEET_SECRET"):
        load_secret("", host, "--fleet.secret")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_one_machine_no_secret_is_needed(host, monkeypatch):
    monkeypatch.delenv(signing.VARIABLE, raising=False)
    load_secret("", host, "--secret").check("POST", "/", b"", {})


@pytest.mark.parametrize(
    ("text", "said"), [("short\n", "at least 16 bytes"), ("", "in one line; it has 0"), ("one\ntwo\n", "it has 2")]
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path, text, said):
    (tmp_path / "secret").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_secret(str(tmp_path / "secret"), "127.0.0.1", "--secret")
    assert text.strip() == "" or text.strip() not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read"):
        load_secret(str(tmp_path / "none"), "127.0.0.1", "--secret")


def test_a_secret_that_others_can_read_is_warned_about(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vicuna"), "propagate", True)
    path = tmp_path / "secret"
    make_secret(path)
    load_secret(str(path), "127.0.0.1", "--secret")
    assert not caplog.records
    path.chmod(0o644)
    load_secret(str(path), "127.0.0.1", "--secret")
    assert "can be read by everybody" in caplog.text
    assert path.read_text().strip() not in caplog.text


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from vicuna.serve.net.secret import command; sys.exit(command(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=folder, capture_output=True, text=True, env=os.environ, check=False
    )


def test_the_command_makes_a_file_and_keeps_the_secret_to_itself(tmp_path):
    made = command("fleet.secret", folder=tmp_path)
    assert made.returncode == 0
    assert (tmp_path / "fleet.secret").read_text().strip() not in made.stdout + made.stderr
    again = command("fleet.secret", folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("error: fleet.secret exists already")
    assert command("--help", folder=tmp_path).returncode == 0
    assert command(folder=tmp_path).returncode == 2
