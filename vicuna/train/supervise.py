"""The ranks of this node as child processes: they end together, and none stays behind."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from vicuna import lifeline
from vicuna.errors import VicunaError

SAVED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a rank that was told to stop and has saved, as all ranks do together."""
LOST = 75
"""Exit status of a rank that ends because another one failed or is gone: not the cause of anything."""
PATIENCE = 10.0
"""Seconds that the others have, when one rank failed, to end by themselves, and again after SIGTERM."""
SAME = 1.0
"""Seconds in which a signal that comes again is the same wish: `timeout` and service managers often send it twice."""
POLL = 0.05
"""Seconds between looks at the ranks."""
LONGEST_TAIL = 4096
"""Bytes of each rank's last output that are kept, to be shown if it fails."""


class RankFailed(VicunaError):
    """A rank was killed, or ended with an error that is a bug and no message."""

    def __init__(self, rank: int, code: int) -> None:
        end = f"ended with status {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
        hint = " (by hand, or by the system when memory ran out)" if code == -signal.SIGKILL else ""
        super().__init__(f"rank {rank} {end}{hint}, and the others were ended with it; "
                         "the same command goes on from the newest checkpoint")  # fmt: skip
        self.exit_status = shell_status(code)


def shell_status(code: int) -> int:
    """Exit status as shells count it: a death by signal N is 128 + N."""
    return code if code >= 0 else 128 - code


class Rank:
    """One child process. The node's first writes where we do; of the others only the last output is kept."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, first: bool, tie: int) -> None:
        self.number = int(environment["RANK"])
        self.first = first
        self.code: int | None = None
        """As `subprocess` gives it: minus the signal's number for a death by signal; None while the rank runs."""
        self.said = b""
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment, lifeline.VARIABLE: str(tie)},
            stdin=subprocess.DEVNULL,
            stdout=None if first else subprocess.PIPE,
            stderr=subprocess.PIPE if first else subprocess.STDOUT,
            pass_fds=(tie,),
            process_group=0,  # Ctrl-C reaches us alone, so that a rank gets it once
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        pipe = self._process.stderr or self._process.stdout
        while pipe and (chunk := os.read(pipe.fileno(), 65536)):
            self.said = (self.said + chunk)[-LONGEST_TAIL:]
            if self.first:
                with contextlib.suppress(OSError):  # nobody reads us any more, and the rank must not block for it
                    os.write(2, chunk)

    def is_running(self) -> bool:
        """Whether the process runs; the children that a failed one left behind are ended here."""
        if self.code is None:
            self.code = self._process.poll()
            if self.has_failed():
                self._kill_group()
            if self.code is not None:
                self._reader.join(1)  # its last words
        return self.code is None

    def has_failed(self) -> bool:
        """Whether it ended, neither done nor stopped after saving."""
        return self.code is not None and self.code not in (0, *SAVED)

    def send(self, number: int) -> None:
        """Send a signal to a rank that runs; SIGKILL to its own children too."""
        if self.code is None and number == signal.SIGKILL:
            self._kill_group()
        elif self.code is None:
            self._process.send_signal(number)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left; a zombie, on macOS
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_line(self) -> bytes:
        """Without its numbers, which differ between ranks that say the same."""
        return re.sub(rb"\d+", b"#", self.said.rstrip().rpartition(b"\n")[2])


def supervise(command: Sequence[str], environments: Sequence[Mapping[str, str]], patience: float = PATIENCE) -> int:
    """Start one rank for each environment, and stay until all of them have ended.

    SIGTERM and SIGINT are handed on to every rank; a second one kills them. When a rank fails the others would wait for
    it in a collective, so after `patience` seconds they get SIGTERM, and after as many again SIGKILL. When this process
    is killed, the ranks see their lifeline cut and end too.

    Args:
        command: what every rank runs.
        environments: for each rank, the variables that make it one (RANK and so on).
        patience: seconds.

    Returns:
        0 when all are done, 128 + N when they saved and stopped for signal N, and the status of a rank that failed and
        has said in one line why.

    Raises:
        RankFailed: a rank failed in any other way; what it said last is on standard error.
    """
    with _stop_requests() as asked, _lifeline() as tie:
        ranks: list[Rank] = []
        try:
            for each in environments:
                ranks.append(Rank(command, each, first=not ranks, tie=tie))
            failed = _wait(ranks, asked, patience)
        finally:
            for rank in ranks:
                rank.send(signal.SIGKILL)
    return _verdict(ranks, failed, asked)


def _wait(ranks: Sequence[Rank], asked: Sequence[int], patience: float) -> Rank | None:
    """Until all ranks have ended; returns the one that failed first."""
    failed: Rank | None = None
    orders: list[tuple[float, int]] = []  # (when, which signal)
    heard = 0
    patient = math.inf  # until when
    while True:
        running = [rank for rank in ranks if rank.is_running()]
        now = time.monotonic()
        if failed is None and (failed := _first_to_fail(ranks)):
            patient = now + patience
            orders += [(patient, signal.SIGTERM), (patient + patience, signal.SIGKILL)]
        elif failed and failed.code == LOST and now < patient:  # the cause may be slower to end
            failed = _first_to_fail(ranks)
        if not running:
            return failed
        for number in asked[heard:]:
            orders.append((now, signal.SIGKILL if heard else number))
            heard += 1
        for _, number in (order for order in orders if order[0] <= now):
            for rank in running:
                rank.send(number)
        orders = [order for order in orders if order[0] > now]
        time.sleep(POLL)


def _first_to_fail(ranks: Sequence[Rank]) -> Rank | None:
    """Of several that are found at once, one that a signal killed: the others failed because it was gone."""
    failed = (rank for rank in ranks if rank.has_failed())
    return min(failed, key=lambda rank: (rank.code == LOST, (rank.code or 0) > 0), default=None)


def _verdict(ranks: Sequence[Rank], failed: Rank | None, asked: Sequence[int]) -> int:
    """The exit status of the whole; see `supervise`."""
    if failed is None:
        return max(rank.code or 0 for rank in ranks)
    code = failed.code or 0
    if asked and (len(asked) > 1 or code in (-asked[0], LOST)):  # we killed it, or it had nothing to save yet
        return 128 + asked[0]
    _show_last_words(ranks, failed)
    if code > 0 and failed.last_line().startswith(b"error: "):
        return code
    raise RankFailed(failed.number, code)


def _show_last_words(ranks: Sequence[Rank], failed: Rank) -> None:
    """What the failed ranks said last, but the same only once; what the first rank said is on the screen."""
    known = {rank.last_line() for rank in ranks if rank.first}
    for rank in (failed, *(rank for rank in ranks if rank.has_failed() and rank.code != LOST and (rank.code or 0) > 0)):
        if rank.last_line() not in known:
            known.add(rank.last_line())
            for line in rank.said.decode(errors="replace").splitlines()[-40:]:
                print(f"[rank {rank.number}] {line}", file=sys.stderr)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """The list grows by the number of each SIGTERM and SIGINT that comes."""
    asked: list[int] = []
    latest = -math.inf

    def note(number: int, _: FrameType | None) -> None:
        nonlocal latest
        if time.monotonic() - latest > SAME:
            latest = time.monotonic()
            asked.append(number)

    before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """The end of a pipe that the ranks watch; it reads as closed when this process is gone."""
    watched, held = os.pipe()
    try:
        yield watched
    finally:
        os.close(held)
        os.close(watched)
