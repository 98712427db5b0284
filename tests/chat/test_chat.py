"""The terminal client against a real stack with one scripted worker, and against servers that break."""

import http.server
import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.serve_stack import Site, site, until
from vicuna.chat import terminal
from vicuna.chat.client import Service, ServiceError
from vicuna.chat.commands import COMMANDS, Outcome, execute
from vicuna.chat.config import ChatConfig
from vicuna.chat.session import Session
from vicuna.config import SamplingConfig
from vicuna.conversation import read_conversations
from vicuna.errors import ConfigError, InputError

SCRIPT = r"""
rules:
  - match: all of it
    answer: "{chat}"
  - match: slowly
    answer: "one two three four five six seven eight nine ten"
    repeat: 100
    pace: 0.1
  - match: evil
    answer: "\e[31mred\e[0m \x9b2J \a bell"
  - match: crash
    answer: one two three four
    fail: error
    after: 2
  - answer: "you said {last}"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("chat"), "--limits.gap", "0.2") as made:
        made.worker("m", SCRIPT)
        yield made


@pytest.fixture
def session(place: Site) -> Session:
    return Session(Service(f"{place.api}/v1", ""), "m", "", SamplingConfig(max_tokens=400))


def answered(session: Session, question: str) -> str:
    session.ask(question)
    return "".join(session.answer())


def said(session: Session) -> list[str]:
    return [turn.content for turn in session.turns]


def piped(api: str, lines: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vicuna.chat", "--api", api, *flags]
    return subprocess.run(
        words, input=lines, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


# ------------------------------------------------------------------------------------------------ a pipe
def test_piped_lines_are_one_conversation(place: Site) -> None:
    ended = piped(place.api, "hello\n\n//slash\n/undo\nall of it\n", "--system", "be kind")
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout.splitlines() == [
        "you said hello",
        "you said /slash",
        "the last question is forgotten",
        "system: be kind / user: hello / assistant: you said hello / user: all of it",
    ]


@pytest.mark.parametrize(
    ("line", "flags", "status", "says"),
    [
        ("hi", ("--model", "nobody"), 1, r"404 model_not_found: .*Served now: m \(request req-\w+\)"),
        ("word " * 3000, (), 1, r"400 context_length_exceeded: this model's context is 2048 tokens .*\(request req-"),
        ("crash", (), 1, r"stream_interrupted: the answer broke off .*\(request req-"),
        ("/nonsense", (), 1, "there is no command /nonsense; /help lists them"),
        ("/params temprature=1", (), 2, "did you mean temperature"),
        ("/edit", (), 1, "needs the new question"),
    ],
)
def test_the_first_error_ends_it_with_one_line_and_a_status(
    place: Site, line: str, flags: tuple[str, ...], status: int, says: str
) -> None:
    first = "" if flags else "hello\n"
    ended = piped(place.api, f"{first}{line}\nnever asked\n", *flags)
    assert ended.returncode == status
    assert ended.stdout.startswith("you said hello\n" if first else "")
    assert "never asked" not in ended.stdout
    assert re.match(rf"error: line {2 if first else 1}: .*{says}", ended.stderr), ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_address_where_nothing_answers_is_one_line() -> None:
    ended = piped("http://127.0.0.1:9", "hello\n")
    assert ended.returncode == 1
    assert re.match(r"error: nothing answers at http://127.0.0.1:9/v1 .*--api", ended.stderr)


def test_what_a_model_says_cannot_command_the_terminal(place: Site) -> None:
    ended = piped(place.api, "evil\n")
    assert ended.stdout == "[31mred[0m 2J  bell\n"


@given(st.text())
def test_text_for_the_screen_has_no_control_characters_and_loses_nothing_else(text: str) -> None:
    shown = terminal.printable(text)
    assert {char for char in shown if unicodedata.category(char) == "Cc"} <= {"\n", "\t"}
    assert shown == "".join(char for char in text if char in shown)


def test_help_is_quick_and_loads_neither_the_client_nor_the_screen() -> None:
    heavy = "{'openai', 'prompt_toolkit', 'torch'}"
    probe = f"import sys, vicuna.chat.__main__ as chat; chat.main(['--help']); print({heavy} & {{*sys.modules}})"
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.endswith("set()\n")


@pytest.mark.parametrize("api", ["localhost:8000", "ftp://x", "http://[", "http://x?y=1"])
def test_an_address_that_is_none_is_refused(api: str) -> None:
    with pytest.raises(ValueError, match="api is an address"):
        ChatConfig(api=api)


def test_an_address_may_have_the_path_or_leave_it_out() -> None:
    assert ChatConfig(api="http://x:1/").base_url == ChatConfig(api="http://x:1/v1/").base_url == "http://x:1/v1"
    assert ChatConfig(api="https://x/openai/v2").base_url == "https://x/openai/v2"


# ------------------------------------------------------------------------------------------------ commands
def test_a_question_can_be_asked_again_changed_and_forgotten(session: Session) -> None:
    answered(session, "one")
    answered(session, "two")
    assert execute(session, "/retry") == Outcome(ask=True)
    assert "".join(session.answer()) == "you said two"
    assert execute(session, "/edit") == Outcome(line="/edit two")
    assert execute(session, "/edit three").ask
    "".join(session.answer())
    assert said(session) == ["one", "you said one", "three", "you said three"]
    execute(session, "/undo")
    assert said(session) == ["one", "you said one"]
    execute(session, "/clear")
    for line in ("/undo", "/retry", "/edit"):
        with pytest.raises(InputError, match="nothing was asked yet"):
            execute(session, line)


def test_a_question_that_got_no_answer_is_replaced_by_the_next(session: Session) -> None:
    session.model = "nobody"
    with pytest.raises(ServiceError):
        answered(session, "lost")
    session.model = "m"
    answered(session, "found")
    assert said(session) == ["found", "you said found"]


def test_what_came_before_an_error_is_kept_and_not_to_be_learnt(session: Session) -> None:
    with pytest.raises(ServiceError, match="stream_interrupted"):
        answered(session, "crash")
    assert [(turn.content, turn.train) for turn in session.turns] == [("crash", True), ("one two", False)]


def test_an_answer_that_was_cut_is_kept_and_not_to_be_learnt(session: Session) -> None:
    execute(session, "/params max_tokens=3 temperature=0 seed=7 top_k=5")
    assert answered(session, "a b c d") == "you said a"
    assert not session.turns[-1].train
    assert "4 in the prompt, 3 in the answer" in execute(session, "/tokens").text
    assert " of 2048 tokens" in execute(session, "/tokens").text


def test_settings_are_checked(session: Session) -> None:
    for line in ("/params temperature=11", "/params temperature=warm", "/params max_tokens=0"):
        with pytest.raises(ConfigError, match=r"/params|temperature|max_tokens"):
            execute(session, line)
    with pytest.raises(InputError, match="name=value"):
        execute(session, "/params temperature")
    assert session.sampling == SamplingConfig(max_tokens=400)


def test_the_model_is_chosen_among_what_is_served(session: Session) -> None:
    assert execute(session, "/models").text == "* m  (2048 tokens)"
    assert execute(session, "/model m@new").text == "talking to m@new"
    with pytest.raises(InputError, match="'n' is not served; served now: m"):
        execute(session, "/model n")


def test_a_saved_conversation_goes_on_after_it_is_loaded(session: Session, tmp_path: Path) -> None:
    execute(session, "/system be kind")
    answered(session, "hello")
    path = tmp_path / "talk.jsonl"
    execute(session, f"/save {path}")
    answered(session, "again")
    execute(session, f"/save {path}")  # its own file may be replaced
    (kept,) = read_conversations(path)
    assert (kept.system, [turn.content for turn in kept.turns]) == ("be kind", said(session))
    execute(session, "/clear")
    with pytest.raises(InputError, match="exists already"):
        Session(session.service, "m", "", SamplingConfig()).save(path)
    assert execute(session, f"/load {path}").text == "one conversation: 4 messages"
    assert answered(session, "all of it").startswith("system: be kind / user: hello / assistant: you said hello")


@pytest.mark.parametrize(("text", "says"), [("", "holds no conversation"), ('{"messages": 3}', "needs a list"),
    ('{"id": "x", "messages": [{"role": "assistant", "content": "hi"}]}', "have to alternate")])  # fmt: skip
def test_a_file_that_is_no_conversation_changes_nothing(session: Session, tmp_path: Path, text: str, says: str) -> None:
    answered(session, "hello")
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        execute(session, f"/load {path}")
    assert said(session) == ["hello", "you said hello"]


def test_help_names_every_command(session: Session) -> None:
    assert [line.split()[0][1:] for line in execute(session, "/help").text.splitlines()[: len(COMMANDS)]] == [*COMMANDS]


# ------------------------------------------------------------------------------------------------ servers that break
class Broken(http.server.BaseHTTPRequestHandler):
    """Says a word of an answer and hangs up."""

    keys: ClassVar[list[str | None]] = []
    cut = b"0\r\n\r\n"

    def do_POST(self) -> None:
        self.keys.append(self.headers["authorization"])
        self.rfile.read(int(self.headers["content-length"]))
        chunk = {
            "id": "x",
            "created": 0,
            "model": "m",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": "half"}}],
        }
        event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n" + self.cut)

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize(
    ("cut", "says"), [(b"", "the connection broke off"), (b"0\r\n\r\n", "ended the answer in the middle")]
)
def test_an_answer_that_ends_without_an_end_is_an_error_and_the_key_is_sent(cut: bytes, says: str) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Cut", (Broken,), {"cut": cut})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = f"http://127.0.0.1:{server.server_port}"
        ended = piped(api, "hi\n", "--model", "m", VICUNA_API_KEY="sk-mine", OPENAI_API_KEY="sk-other")
        server.shutdown()
    assert ended.stdout == "half\n"
    assert ended.returncode == 1
    assert says in ended.stderr
    assert Broken.keys[-1] == "Bearer sk-mine"


def test_a_service_that_wants_a_key_is_answered_with_where_the_key_belongs(tmp_path: Path) -> None:
    made = Site(tmp_path)
    keys = tmp_path / "keys.jsonl"
    keys.touch()
    try:
        controller = made.start("controller", "--port", str(made.port), "--access.keys", str(keys))
        until(lambda: "controller: http" in controller.output(), "the controller")
        ended = piped(made.api, "hi\n", VICUNA_API_KEY="sk-unknown")
    finally:
        made.end()
    assert ended.returncode == 1
    assert "401 invalid_api_key" in ended.stderr
    assert "the environment variable VICUNA_API_KEY holds the key" in ended.stderr


# ------------------------------------------------------------------------------------------------ a keyboard
class Keyboard:
    """The client in a pseudo-terminal of its own."""

    def __init__(self, api: str, state: Path) -> None:
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(state)}
            termios.tcsetwinsize(0, (40, 120))
            os.execv(sys.executable, [sys.executable, "-m", "vicuna.chat", "--api", api])
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self.file, keys.encode())

    def see(self, pattern: str) -> None:
        """Wait until it shows that, after what was waited for before; moves of the cursor are left out."""
        end = time.monotonic() + 60
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, f"waited in vain for {pattern!r}; shown: {self.shown!r}"
            if select.select([self.file], [], [], 0.1)[0]:
                raw = os.read(self.file, 65536).decode("utf-8", "replace")
                self.shown += re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\x08", "", raw)
        self.shown = self.shown[found.end() :]

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def keyboard(place: Site, tmp_path: Path) -> Iterator[Keyboard]:
    made = Keyboard(place.api, tmp_path)
    made.see("Talking to m .*")
    made.see("m>")
    yield made
    os.close(made.file)


def test_ctrl_c_stops_the_answer_and_its_computation_and_keeps_what_came(place: Site, keyboard: Keyboard) -> None:
    keyboard.type("slowly\r")
    keyboard.see("one two three")
    keyboard.type("\x03")
    keyboard.see(r"\[stopped\]")
    until(lambda: place.fleet()["in_flight"] == 0, "the computation to end")
    keyboard.see("m>")
    keyboard.type("all of it\r")
    keyboard.see("user: slowly / assistant: one two three[a-z ]* / user: all of it")
    keyboard.see("m>")
    keyboard.type("half a line\x03")  # drops the line
    keyboard.see("m>")
    keyboard.type("\x04")
    assert keyboard.status() == 0


def test_lines_are_joined_by_alt_enter_and_within_a_fence(keyboard: Keyboard, tmp_path: Path) -> None:
    keyboard.type("first\x1b\rsecond\r")
    keyboard.see(r"you said first\nsecond")
    keyboard.see("m>")
    keyboard.type("```\rcode\r```\r")
    keyboard.see(r"you said ```\ncode\n```")
    keyboard.see("m>")
    keyboard.type("/edit\r")
    keyboard.see("/edit ```")
    keyboard.type("\x03/nonsense\r")
    keyboard.see("error: there is no command /nonsense")
    keyboard.see("m>")
    keyboard.type("/quit\r")
    assert keyboard.status() == 0
    history = tmp_path / "vicuna" / "chat_history"
    assert "second" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
