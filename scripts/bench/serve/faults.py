"""Each fault that people report of such systems, done to ours and to FastChat: who notices, and for how long.

    .venv/bin/python scripts/bench/serve/faults.py --peers DIR --out faults.json       (5 minutes)
    .venv/bin/python scripts/bench/serve/faults.py --quick                              (ours alone, 1 minute)

Ours has real workers with the scripted engine; FastChat's controller and API server have workers that are stubs of the
same pace, so its figures are those of its control plane, and faults in its workers are not tried. Answers have 60
words, one each 50 ms. "Lost" are answers that should have come and did not. A bystander talks to another model, which
has its own worker, ten times a second: its slowest answer is shown beside what it usually takes. A client gives up
after `--patience` seconds.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiohttp
from stacks import FastChat, Ours, get, until
from stub import DETAILS, LOOKS
from talk import Heard, Talker

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import measure

WORDS, PACE = 60, 0.05
SCRIPT = f"""
pace: {PACE}
rules:
  - match: quick
    answer: done
  - answer: "x "
    repeat: {WORDS}
"""
SECRET = {"VICUNA_FLEET_SECRET": "0123456789abcdef0123456789abcdef"}


@dataclass(frozen=True)
class Row:
    """What a fault did."""

    fault: str
    system: str
    outcome: str
    lost: int | None
    """Answers; None where there was none to lose."""
    seconds: float
    """Until the next token, the error, or whatever the outcome says."""
    bystander: float = 0.0
    """Milliseconds of the slowest answer to somebody who had nothing to do with it."""
    usual: float = 0.0
    """Milliseconds of an answer to the bystander, median."""


class System:
    """One of the two, with two workers of the model and one of another model for the bystander."""

    def __init__(self, stack: Ours, patience: float) -> None:
        self.stack = stack
        self.patience = patience
        self.name = stack.label
        self._stubs: dict[str, str] = {}

    def start_workers(self, count: int) -> None:
        for number in range(count):
            self.start_worker(f"worker{number}")
        self.start_worker("bystander", "other")

    def start_worker(self, name: str, model: str = "lab") -> None:
        if isinstance(self.stack, FastChat):
            self._stubs[name] = self.stack.start_stub(name, pace=PACE, heartbeat=45, model=model)
        else:
            self.stack.start_worker(name, SCRIPT, model=model)

    def running(self) -> int:
        """Answers that the model's workers compute."""
        if self._stubs:
            return sum(
                get(f"{address}/calls")["running"] for name, address in self._stubs.items() if name != "bystander"
            )
        rows = get(f"{self.stack.fleet}/fleet")["workers"]
        loads = [get(f"{row['address']}/health") for row in rows if row["models"][0]["name"] == "lab"]
        return sum(int(load["load"]["running"]) for load in loads if load)

    async def ask(self, talker: Talker, **extra: object) -> Heard:
        return await talker.ask(max_tokens=WORDS, patience=self.patience, **extra)


@contextmanager
def system(folder: str | None, patience: float, workers: int = 2) -> Iterator[System]:
    """Ours, or FastChat from the peers' folder."""
    with FastChat(folder) if folder else Ours(SECRET) as stack:
        made = System(stack, patience)
        stack.start_gateway()
        made.start_workers(workers)
        yield made


@asynccontextmanager
async def bystander(talker: Talker, found: list[float]) -> AsyncIterator[None]:
    """Ask for one word of the other model again and again; `found` gets the seconds of each answer."""

    async def ask() -> None:
        while True:
            since = time.monotonic()
            heard = await talker.ask("quick", "other", stream=False, max_tokens=1, patience=120)
            found.append(heard.seconds if not heard.error else float("inf"))
            await asyncio.sleep(max(0, 0.1 - (time.monotonic() - since)))

    task = asyncio.create_task(ask())
    await asyncio.sleep(1)
    try:
        yield
    finally:
        await asyncio.sleep(0.3)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


Fault = Callable[[System, Talker], Awaitable[Row]]


def outcome(heard: Heard) -> str:
    """In a word or two."""
    if not heard.error:
        return "whole answer"
    kind = "typed error" if heard.typed else "error"
    return f"{heard.status or '-'} {kind}: {heard.error}"


def row(made: System, fault: str, heard: list[Heard], seconds: float, expected: int) -> Row:
    """A row about answers that were to have come."""
    bad = [each for each in heard if each.error]
    lost = len(bad) + expected - len(heard)
    return Row(fault, made.name, outcome(bad[0]) if bad else "whole answer", lost, seconds)


# ------------------------------------------------------------------------------------------------ the faults
async def struck_in_the_middle(made: System, talker: Talker, fault: str, number: int, *, stream: bool) -> Row:
    """Both workers are busy; something befalls one of them."""
    asked = [asyncio.create_task(made.ask(talker, stream=stream)) for _ in range(4)]
    await asyncio.sleep(1)
    made.stack.signal("worker0", number)
    heard = await asyncio.gather(*asked)
    worst = max(each.gap if stream and not each.error else each.seconds - 1 for each in heard)
    return row(made, fault, heard, worst, 4)


async def killed_stream(made: System, talker: Talker) -> Row:
    return await struck_in_the_middle(made, talker, "one of two workers killed, streams", signal.SIGKILL, stream=True)


async def killed_whole(made: System, talker: Talker) -> Row:
    fault = "one of two workers killed, whole replies (seconds from the kill to the answer's end)"
    return await struck_in_the_middle(made, talker, fault, signal.SIGKILL, stream=False)


async def hung_stream(made: System, talker: Talker) -> Row:
    return await struck_in_the_middle(made, talker, "one of two workers hangs, streams", signal.SIGSTOP, stream=True)


async def killed_idle(made: System, talker: Talker) -> Row:
    made.stack.kill("worker0")
    heard = [await talker.ask("quick", max_tokens=1, stream=False, patience=made.patience) for _ in range(20)]
    return row(
        made, "one of two workers killed while idle, then 20 requests", heard, max(each.seconds for each in heard), 20
    )


async def only_worker(made: System, talker: Talker, fault: str, number: int) -> Row:
    made.stack.kill("worker1")
    await asyncio.sleep(6)  # it is forgotten, or at least known
    asked = asyncio.create_task(made.ask(talker))
    await asyncio.sleep(1)
    made.stack.signal("worker0", number)
    struck = time.monotonic()
    heard = await asked
    return Row(fault, made.name, outcome(heard), None, heard.ended - struck)


async def only_worker_killed(made: System, talker: Talker) -> Row:
    return await only_worker(made, talker, "the only worker killed: time to the error", signal.SIGKILL)


async def only_worker_hung(made: System, talker: Talker) -> Row:
    return await only_worker(made, talker, "the only worker hangs: time to the error", signal.SIGSTOP)


async def controller_restarted(made: System, talker: Talker) -> Row:
    """Killed and started again; somebody asks every 50 ms until there is an answer."""
    made.stack.kill("controller")
    killed = time.monotonic()
    if isinstance(made.stack, FastChat):
        await asyncio.to_thread(made.stack.start_controller)
    else:
        await asyncio.to_thread(made.stack.start_gateway)
    up, lost = time.monotonic(), 0
    while time.monotonic() - up < made.patience:
        heard = await talker.ask("quick", max_tokens=1, stream=False, patience=made.patience)
        if not heard.error:
            said = f"first answer; the process itself took {up - killed:.1f} s to start"
            return Row("controller killed and restarted", made.name, said, lost, heard.ended - up)
        lost += 1
        await asyncio.sleep(0.05)
    return Row("controller killed and restarted", made.name, outcome(heard), lost, time.monotonic() - up)


async def listing(made: System, talker: Talker) -> Row:
    made.stack.signal("worker0", signal.SIGSTOP)
    since = time.monotonic()
    found = await asyncio.to_thread(get, f"{made.stack.base}/v1/models", made.patience)
    return Row(
        "GET /v1/models while a worker hangs",
        made.name,
        "listed" if found else "no list",
        None,
        time.monotonic() - since,
    )


async def left(made: System, talker: Talker, fault: str, *, stream: bool) -> Row:
    """Four clients go away after a second; how long do the workers go on?"""
    asked = [asyncio.create_task(made.ask(talker, stream=stream)) for _ in range(4)]
    await asyncio.sleep(1)
    for task in asked:
        task.cancel()
    since = time.monotonic()
    await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.to_thread(until, lambda: made.running() == 0, "the workers to stop")
    return Row(fault, made.name, "computed on for nobody", None, time.monotonic() - since)


async def left_stream(made: System, talker: Talker) -> Row:
    return await left(made, talker, "clients leave streams", stream=True)


async def left_whole(made: System, talker: Talker) -> Row:
    return await left(made, talker, "clients leave whole replies", stream=False)


async def nulls(made: System, talker: Talker) -> Row:
    fault = "`temperature: null` five times, then a good request"
    statuses = [(await talker.ask("quick", max_tokens=1, stream=False, temperature=None)).status for _ in range(5)]
    heard = await talker.ask("quick", max_tokens=1, stream=False, patience=made.patience)
    return replace(
        row(made, fault, [heard], heard.seconds, 1), outcome=f"{statuses[0]} five times, then {outcome(heard)}"
    )


async def big_prompt(made: System, talker: Talker) -> Row:
    """A prompt of 10 MB while somebody streams from the same model."""
    asked = asyncio.create_task(made.ask(talker))
    await asyncio.sleep(0.5)
    big = await talker.ask("word " * 2_000_000, max_tokens=1, stream=False, patience=made.patience)
    heard = await asked
    said = f"{outcome(big)}; the longest pause of another's stream is shown"
    return replace(row(made, "a prompt of 10 MB beside a stream", [heard], heard.gap, 1), outcome=said)


async def odd_bodies(made: System, talker: Talker) -> Row:
    """What is no request must be refused with a status of 400 and more, and harm nobody."""
    good = {"model": "lab", "messages": [{"role": "user", "content": "quick"}], "max_tokens": 1}
    bodies = {
        "nested lists": b"[" * 100_000, "no JSON": b"{", "no messages": json.dumps(good | {"messages": []}).encode(),
        "NaN": json.dumps(good | {"temperature": float("nan")}).encode(),
        "unknown role": json.dumps(good | {"messages": [{"role": "x", "content": "quick"}]}).encode(),
        "no role": json.dumps(good | {"messages": [{"content": "quick"}]}).encode(),
        "unknown field": json.dumps(good | {"never_heard_of": {"a": [1]}}).encode(),
        "max_tokens -1": json.dumps(good | {"max_tokens": -1}).encode(),
        "10 MB field": json.dumps(good | {"junk": "x" * 10_000_000}).encode(),
    }  # fmt: skip
    slowest, said, untyped = 0.0, [], []
    for name, body in bodies.items():
        heard = await talker.send(body, made.patience)
        slowest = max(slowest, heard.seconds)
        said.append(f"{name} {heard.status or 'cut'}")
        if heard.error and not heard.typed:
            untyped.append(name)
    last = await talker.ask("quick", max_tokens=1, stream=False, patience=made.patience)
    words = ", ".join(said) + (f"; not in OpenAI's form: {', '.join(untyped)}" if untyped else "")
    return replace(row(made, "odd bodies, then a good request", [last], slowest, 1), outcome=words)


async def hostile_worker(made: System, talker: Talker) -> Row:
    """Somebody without the secret registers a worker for the model and waits for other people's prompts."""
    caught: list[bytes] = []
    charm = json.dumps(DETAILS | {"queue_length": -1_000_000, "conv": LOOKS, "status": "ok", "worker_id": "w-evil",
                                  "text": "evil", "usage": {}, "finish_reason": "stop"}).encode()  # fmt: skip

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            caught.append(await asyncio.wait_for(reader.read(65536), 5))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(charm), charm))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if isinstance(made.stack, FastChat):
            path = "/register_worker"
            body = {"worker_name": address, "check_heart_beat": False, "worker_status": {
                "model_names": ["lab"], "speed": 1000, "queue_length": -1000000}}  # fmt: skip
        else:
            path, model = "/fleet/register", {"name": "lab", "max_length": 9}
            body = {"protocol": 2, "worker_id": "w-evil", "address": address, "models": [model], "capacity": 99_999}
        async with aiohttp.ClientSession() as session, session.post(made.stack.fleet + path, json=body) as reply:
            status = reply.status
        heard = [await talker.ask("quick mysecret", max_tokens=1, stream=False, patience=5) for _ in range(10)]
    stolen = sum(b"mysecret" in each for each in caught)
    given = sum(each.text == "evil" for each in heard)
    said = f"registration: {status}; prompts that it got: {stolen}, answers that it gave: {given}"
    return replace(
        row(made, "a stranger registers as a worker, then 10 requests", heard, max(each.seconds for each in heard), 10),
        outcome=said,
    )


FAULTS: tuple[Fault, ...] = (
    killed_stream, killed_whole, killed_idle, only_worker_killed, hung_stream, only_worker_hung, controller_restarted,
    listing, left_stream, left_whole, nulls, big_prompt, odd_bodies, hostile_worker,
)  # fmt: skip
IN_THE_WORKER = (nulls, big_prompt)
"""What FastChat's gateway passes on; its workers, which are not here, have to cope with it."""


# ------------------------------------------------------------------------------------------------ all of them
async def observed(fault: Fault, made: System) -> Row:
    """One fault, with the bystander beside it."""
    found: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        talker = Talker(session, made.stack.base)
        if fault is controller_restarted:  # that takes everybody's gateway away
            return await fault(made, talker)
        async with bystander(talker, found):
            quiet = len(found)
            got = await fault(made, talker)
        return replace(got, bystander=1e3 * max(found[quiet:], default=0.0), usual=1e3 * statistics.median(found))


def main() -> None:
    """Run the faults and show what they did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="folder that peers.py made; without it, only ours is tried")
    parser.add_argument("--out", help="write the rows there, as JSON")
    parser.add_argument("--patience", type=float, default=40, help="seconds after which a client gives up")
    parser.add_argument(
        "--only", nargs="*", default=[], help="names of the faults to do: " + ", ".join(f.__name__ for f in FAULTS)
    )
    parser.add_argument("--quick", action="store_true", help="ours alone")
    options = parser.parse_args()
    machine = measure.machine()
    print(machine, end="\n\n")
    rows: list[Row] = []
    folders = [None, options.peers] if options.peers and not options.quick else [None]
    for fault in [each for each in FAULTS if not options.only or each.__name__ in options.only]:
        for folder in folders if fault not in IN_THE_WORKER else folders[:1]:
            with system(folder, options.patience) as made:
                rows.append(asyncio.run(observed(fault, made)))
            print(rows[-1], file=sys.stderr)
        measure.save(options.out, {"machine": machine, "rows": [asdict(each) for each in rows]})
    head = ["fault", "system", "what came of it", "lost", "seconds", "bystander's slowest (usual), ms"]
    print(measure.table(head, [[each.fault, each.system, each.outcome, "-" if each.lost is None else each.lost,
        f"{each.seconds:.2f}", f"{each.bystander:.0f} ({each.usual:.0f})"] for each in rows]))  # fmt: skip


if __name__ == "__main__":
    main()
