"""API keys: who gets in, what each key opens, how much it may ask for, and what is kept of it."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.errors import ConfigError
from vicuna.serve.access import keyfile, keys
from vicuna.serve.access.callers import Access, Caller, model_forbidden
from vicuna.serve.access.keyfile import SCOPES, Scope
from vicuna.serve.access.rates import Bucket, Meter
from vicuna.serve.config import AccessConfig
from vicuna.serve.faults import Fault

ELSEWHERE = "192.0.2.7"
HERE = "127.0.0.1"


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Site:
    """A key file and the door that reads it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = folder / "keys.jsonl"
        self.clock = Clock()
        self.wall = Clock(datetime.now(UTC).timestamp())
        self._capsys = capsys

    def add(self, name: str, *flags: str) -> str:
        """Make a key with the command; it is the only thing on standard output."""
        assert keys.command(["add", name, "--file", str(self.file), *flags]) == 0
        return self._capsys.readouterr().out.strip()

    def change(self, word: str, key: str) -> None:
        """`disable`, `enable` or `remove` a key with the command."""
        assert keys.command([word, keyfile.id_of(key), "--file", str(self.file)]) == 0

    def access(self) -> Access:
        """The door as a controller makes it."""
        return Access(AccessConfig(keys=str(self.file)), self.clock, self.wall)


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    """An empty site."""
    return Site(tmp_path, capsys)


def bearer(key: str) -> dict[str, str]:
    """The headers of a request with this key."""
    return {"authorization": f"Bearer {key}"}


def enter(access: Access, key: str, scope: Scope | None = "chat") -> Caller:
    """Ask for something with a key."""
    return access.caller(bearer(key), ELSEWHERE, scope)


def refusal(access: Access, headers: dict[str, str], scope: Scope | None = "chat") -> Fault:
    """Why a request is refused."""
    with pytest.raises(Fault) as caught:
        access.caller(headers, ELSEWHERE, scope)
    return caught.value


# ------------------------------------------------------------------------------------------- who gets in
def test_a_key_opens_what_its_scopes_say_and_nothing_else(site: Site) -> None:
    key = site.add("ann", "--scopes", "chat", "metrics")
    access = site.access()
    for scope in SCOPES:
        if scope in ("chat", "metrics"):
            assert enter(access, key, scope).name == keyfile.id_of(key)
        else:
            fault = refusal(access, bearer(key), scope)
            assert (fault.status, fault.code) == (403, "insufficient_scope")
            assert scope in str(fault)
    assert enter(access, key, None).name == keyfile.id_of(key)  # what every key opens


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dTpw", "vk-without-scheme"])
def test_who_sends_no_key_is_told_how_to(site: Site, header: str | None) -> None:
    site.add("ann")
    fault = refusal(site.access(), {} if header is None else {"authorization": header})
    assert (fault.status, fault.code) == (401, "invalid_api_key")
    assert fault.headers()["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in str(fault)


def test_a_key_that_differs_in_one_character_is_refused_in_the_same_words_as_an_unknown_one(site: Site) -> None:
    key = site.add("ann")
    access = site.access()
    strange = [
        key[:-1] + ("0" if key[-1] != "0" else "1"),
        key[:-1],
        key + "0",
        "vk-00000000-00",
        "sk-abc",
        "vk--",
        "é",
    ]
    (answer,) = {str(refusal(access, bearer(each))) for each in strange}
    assert not any(each in answer for each in (key, "sk-abc"))


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> tuple[Access, str]:
    """A door with one key."""
    file = tmp_path_factory.mktemp("door") / "keys.jsonl"
    key_id, key = keyfile.make(set())
    with keyfile.changing(file) as known:
        known[key_id] = keyfile.Key(
            id=key_id, name="ann", sha256=keyfile.fingerprint(key), scopes=("chat",), created=keyfile.now()
        )
    return Access(AccessConfig(keys=str(file))), key


@given(text=st.text(max_size=200))
def test_any_text_in_place_of_a_key_is_refused_with_401(door: tuple[Access, str], text: str) -> None:
    access, key = door
    for header in (text, f"Bearer {text}", f"Bearer {key}{text}x", f"Bearer vk-{keyfile.id_of(key)}-{text}"):
        assert refusal(access, {"authorization": header}).status == 401
    assert enter(access, key).name == keyfile.id_of(key)


def test_a_key_is_valid_until_it_expires(site: Site) -> None:
    end = datetime.now(UTC) + timedelta(days=2)
    key = site.add("ann", "--expires", end.isoformat())
    access = site.access()
    enter(access, key)
    site.wall.now = end.timestamp() - 1
    enter(access, key)
    site.wall.now = end.timestamp()
    fault = refusal(access, bearer(key))
    assert fault.status == 401
    assert "expired" in str(fault)


def test_without_keys_people_on_this_machine_may_do_everything_and_others_all_but_draining() -> None:
    access = Access.from_config(AccessConfig(open=True), "0.0.0.0")
    for scope in SCOPES:
        assert access.caller({}, HERE, scope) == Caller(HERE)
    assert access.caller({"authorization": "Bearer none"}, ELSEWHERE, "chat") == Caller(ELSEWHERE)
    assert refusal(access, {}, "admin").status == 403


def test_without_keys_a_web_page_may_ask_only_where_it_is_named_and_with_a_key_any_may(site: Site) -> None:
    page = {"origin": "https://page.example"}
    fault = refusal(Access(AccessConfig()), page, None)
    assert (fault.status, fault.code) == (403, "origin_not_allowed")
    for origin in ("https://page.example.evil", "http://page.example", "null", ""):
        assert refusal(Access(AccessConfig(cors=("https://page.example",))), {"origin": origin}).status == 403
    for cors in ("https://page.example", "*"):
        assert Access(AccessConfig(cors=(cors,))).caller(page, HERE, "chat") == Caller(HERE)
    key = site.add("ann")
    assert site.access().caller(bearer(key) | page, ELSEWHERE, "chat").name == keyfile.id_of(key)


def test_a_controller_that_lets_other_machines_in_needs_keys_or_to_be_told_that_it_is_open(site: Site) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError) as caught:
            Access.from_config(AccessConfig(), host)
        assert "serve key add" in str(caught.value)
        assert "--access.open" in str(caught.value)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        Access.from_config(AccessConfig(), host)
    site.add("ann")
    Access.from_config(AccessConfig(keys=str(site.file)), "0.0.0.0")
    Access.from_config(AccessConfig(open=True), "0.0.0.0")


# ------------------------------------------------------------------------------------------- models and priorities
def test_a_key_for_some_models_admits_these_and_their_versions_only(site: Site) -> None:
    key = site.add("ann", "--models", "vicuna-*", "tiny")
    caller = enter(site.access(), key)
    assert [caller.may_use(name) for name in ("vicuna-7b", "vicuna-7b@v2", "tiny", "tiny@v1")] == [True] * 4
    assert [caller.may_use(name) for name in ("tiny2", "Tiny", "llama", "x@tiny", "")] == [False] * 5
    anything = site.add("bob")
    assert enter(site.access(), anything).may_use("llama")
    fault = model_forbidden("llama")
    assert (fault.status, fault.param) == (403, "model")


def test_nobody_is_more_urgent_than_the_key_allows(site: Site) -> None:
    usual, batch, urgent = (
        site.add("usual"),
        site.add("batch", "--priority", "5"),
        site.add("urgent", "--priority", "-3"),
    )
    access = site.access()
    asked = (-9, 0, 7)
    assert [enter(access, usual).priority(each) for each in asked] == [0, 0, 7]
    assert [enter(access, batch).priority(each) for each in asked] == [5, 5, 7]
    assert [enter(access, urgent).priority(each) for each in asked] == [-3, 0, 7]
    assert [Caller(HERE).priority(each) for each in asked] == [0, 0, 7]


# ------------------------------------------------------------------------------------------- what is kept
def test_the_key_itself_is_in_no_file_no_log_and_no_repr(
    site: Site, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.add("ann", "--requests_per_minute", "1")
    other = site.add("bob")
    site.change("disable", other)
    keys.command(["list", "--file", str(site.file)])
    monkeypatch.setattr(logging.getLogger("vicuna"), "propagate", True)  # the commands have set it off
    with caplog.at_level(logging.DEBUG, "vicuna"):
        access = site.access()
        caller = enter(access, key)
        admission = access.admit(caller, 1)
        admission.settle(1)
        with pytest.raises(Fault) as spent:
            access.admit(caller, 1)
        disabled = refusal(access, bearer(other))
        access.reload()
    said = [caplog.text, *capsys.readouterr(), repr(access), repr(caller), repr(admission), repr(spent.value)]
    said += [str(disabled), spent.value.encoded().decode(), repr(access.__dict__)]
    shown = "".join([*said, *(path.read_text() for path in site.file.parent.iterdir())])
    for secret in (key.split("-")[2], other.split("-")[2]):
        assert secret not in shown
    assert keyfile.fingerprint(key) not in "".join(said)
    assert keyfile.fingerprint(key) in site.file.read_text()


def test_the_key_file_is_for_its_owner_alone(site: Site) -> None:
    before = os.umask(0)
    try:
        key = site.add("ann")
        assert stat.S_IMODE(site.file.stat().st_mode) == 0o600
        site.file.chmod(0o644)
        site.change("disable", key)
        assert stat.S_IMODE(site.file.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert [path.name for path in site.file.parent.iterdir()] == ["keys.jsonl"]  # nothing temporary stays


def test_the_list_shows_everything_but_the_secrets(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    ann = site.add("Ann A.", "--models", "vicuna-*", "--tokens_per_minute", "5000", "--expires", "2027-01-31")
    bob = site.add("bob", "--scopes", "metrics")
    site.change("disable", bob)
    assert keys.command(["list", "--file", str(site.file)]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("id")
    assert first.startswith(keyfile.id_of(ann))
    assert all(each in first for each in ("Ann A.", "vicuna-*", "5000", "2027-01-31", "valid"))
    assert all(each in second for each in ("bob", "metrics", "disabled"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--scopes", "chatt"],
        ["--scopes"],
        ["--requests_per_minute", "0"],
        ["--tokens_per_minute", "-1"],
        ["--expires", "soon"],
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(
    site: Site, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys.command(["add", "ann", "--file", str(site.file), *flags]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not site.file.exists()


def test_an_unknown_id_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.add("ann")
    before = site.file.read_bytes()
    assert keys.command(["remove", "nobody", "--file", str(site.file)]) == 1
    assert "nobody" in capsys.readouterr().err
    assert site.file.read_bytes() == before


def test_keys_that_are_made_at_the_same_time_are_all_there(site: Site) -> None:
    command = [sys.executable, "-m", "vicuna.serve", "key", "add", "--file", str(site.file)]
    processes = [
        subprocess.Popen([*command, f"name-{i}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    made = [process.communicate()[0].strip() for process in processes]
    access = site.access()
    assert len({enter(access, key).name for key in made}) == 8
    assert {row["name"] for row in map(json.loads, site.file.read_text().splitlines())} == {
        f"name-{i}" for i in range(8)
    }


# ------------------------------------------------------------------------------------------- the file changes
def test_a_controller_follows_the_key_file_while_it_runs(site: Site) -> None:
    ann = site.add("ann")
    access = site.access()

    async def scene() -> tuple[str, Fault, str]:
        watch = asyncio.ensure_future(access.watch())
        try:
            bob = site.add("bob")
            while not await _enters(access, bob):
                pass
            site.change("disable", ann)
            while await _enters(access, ann):
                pass
            disabled = refusal(access, bearer(ann))
            site.change("enable", ann)
            while not await _enters(access, ann):
                pass
            site.change("remove", bob)
            while await _enters(access, bob):
                pass
            return enter(access, ann).name, disabled, str(refusal(access, bearer(bob)))
        finally:
            watch.cancel()

    name, disabled, gone = asyncio.run(asyncio.wait_for(scene(), 60))
    assert name == keyfile.id_of(ann)
    assert disabled.status == 401
    assert "disabled" in str(disabled)
    assert "not known" in gone


async def _enters(access: Access, key: str) -> bool:
    await asyncio.sleep(0.02)
    with contextlib.suppress(Fault):
        enter(access, key)
        return True
    return False


@pytest.mark.parametrize("damage", ['{"id": 1}\n', "no JSON", None])
def test_a_broken_key_file_leaves_the_keys_of_before_and_is_reported_once(
    site: Site, damage: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.add("ann")
    monkeypatch.setattr(logging.getLogger("vicuna"), "propagate", True)  # the command has set it off
    access = site.access()
    if damage is None:
        site.file.unlink()
    else:
        site.file.write_text(damage)
    access.reload()
    access.reload()
    enter(access, key)
    reports = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(reports) == 1
    assert str(site.file) in reports[0].getMessage()
    site.file.unlink(missing_ok=True)
    new = site.add("bob")
    access.reload()
    enter(access, new)
    assert refusal(access, bearer(key)).status == 401


@pytest.mark.parametrize("content", [None, "{", '{"id": "a", "name": "a", "sha256": "short", "scopes": ["chat"]}'])
def test_a_missing_or_broken_key_file_at_the_start_is_an_error_in_one_line(site: Site, content: str | None) -> None:
    if content is not None:
        site.file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        site.access()
    assert str(site.file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_keys_with_one_id_are_an_error(site: Site) -> None:
    site.add("ann")
    site.file.write_text(site.file.read_text() * 2)
    with pytest.raises(ConfigError, match=":2: there is a key"):
        site.access()


# ------------------------------------------------------------------------------------------- limits
def said_wait(meter: Meter, tokens: int) -> float:
    """The seconds that a refusal tells to wait; 0 where the request is let in."""
    try:
        meter.admit(tokens)
    except Fault as fault:
        return fault.retry_after or 0.0
    return 0.0


STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 90), st.floats(-1e6, 0), st.just(0.0)),  # seconds that the clock moves
        st.integers(0, 40),  # units that are asked for
    ),
    max_size=60,
)


@given(limit=st.integers(1, 30), steps=STEPS)
def test_over_any_time_a_bucket_gives_out_no_more_than_the_limit_and_one_burst(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    bucket = Bucket(limit, clock)
    elapsed, taken = 0.0, []
    for seconds, units in steps:
        clock.now += seconds
        elapsed += max(0.0, seconds)
        if bucket.wait(units) == 0:
            bucket.take(units)
            taken.append((elapsed, units))
    for first, last in itertools.combinations_with_replacement(range(len(taken)), 2):
        time = taken[last][0] - taken[first][0]
        assert sum(units for _, units in taken[first : last + 1]) <= limit * (1 + time / 60) + 1e-3


@given(limit=st.integers(1, 100_000), used=st.lists(st.integers(1, 100_000), max_size=20), start=st.floats(0, 1e9))
def test_who_waits_as_long_as_was_said_is_let_in_and_not_much_sooner(limit: int, used: list[int], start: float) -> None:
    clock = Clock(start)
    meter = Meter(None, limit, clock)
    for tokens in used:
        tokens = min(tokens, limit)
        wait = said_wait(meter, tokens)
        if wait:
            clock.now += 0.9 * wait
            assert wait < 0.01 or said_wait(meter, tokens) > 0
            clock.now += 0.1 * wait + 1e-6
            assert said_wait(meter, tokens) == 0


def test_a_key_that_has_used_its_requests_is_told_when_to_come_back(site: Site) -> None:
    key, clock = site.add("ann", "--requests_per_minute", "2"), site.clock
    access = site.access()
    caller = enter(access, key)
    first = access.admit(caller, 10)
    assert first.headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    clock.now += 6
    access.admit(caller, 10)
    with pytest.raises(Fault) as caught:
        access.admit(caller, 10)
    fault = caught.value
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert fault.retry_after == pytest.approx(24)
    assert fault.headers()["x-ratelimit-remaining-requests"] == "0"
    assert fault.headers()["x-ratelimit-reset-requests"] == "54s"
    clock.now += 24
    access.admit(caller, 10)


def test_the_tokens_really_used_replace_the_estimate_exactly_once(site: Site) -> None:
    key = site.add("ann", "--tokens_per_minute", "600")
    access = site.access()
    caller = enter(access, key)

    def left() -> str:
        return admission.headers()["x-ratelimit-remaining-tokens"]

    admission = access.admit(caller, 500)
    assert left() == "100"
    admission.settle(20)
    assert left() == "580"
    with pytest.raises(ValueError, match="already"):
        admission.settle(20)
    assert left() == "580"
    admission = access.admit(caller, 80)
    admission.settle(620)  # more than was expected: a debt of 40 tokens, 10 of which come back every second
    assert left() == "0"
    with pytest.raises(Fault) as caught:
        access.admit(caller, 1)
    assert caught.value.retry_after == pytest.approx(4.1)
    assert admission.headers()["x-ratelimit-reset-tokens"] == "1m4s"


def test_a_request_that_could_never_be_let_in_is_told_so(site: Site) -> None:
    key = site.add("ann", "--tokens_per_minute", "100", "--requests_per_minute", "1")
    access = site.access()
    caller = enter(access, key)
    with pytest.raises(Fault) as caught:
        access.admit(caller, 101)
    assert (caught.value.status, caught.value.code) == (400, "tokens_over_limit")
    access.admit(caller, 100)  # the refused one took nothing


def test_what_is_refused_for_its_tokens_does_not_cost_a_request(site: Site) -> None:
    key = site.add("ann", "--tokens_per_minute", "100", "--requests_per_minute", "2")
    access = site.access()
    caller = enter(access, key)
    admission = access.admit(caller, 60)
    with pytest.raises(Fault) as caught:
        access.admit(caller, 60)
    assert caught.value.retry_after == pytest.approx(12)
    assert admission.headers()["x-ratelimit-remaining-requests"] == "1"


def test_each_key_has_limits_of_its_own_that_outlast_a_reload_of_the_file(site: Site) -> None:
    ann, bob = (site.add(name, "--requests_per_minute", "1") for name in ("ann", "bob"))
    access = site.access()
    access.admit(enter(access, ann), 1)
    access.admit(enter(access, bob), 1)
    free = site.add("free")
    access.reload()
    assert access.admit(enter(access, free), 10**9).headers() == {}
    with pytest.raises(Fault):
        access.admit(enter(access, ann), 1)
    assert access.admit(Caller(HERE), 10**9).headers() == {}
