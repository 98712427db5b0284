"""The answers of one request, computed side by side: put together as one body, or passed on as they come."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from vicuna.serve import faults
from vicuna.serve.api.replies import StreamWriter, Usage, error_event
from vicuna.serve.api.whole import Whole
from vicuna.serve.faults import Fault
from vicuna.serve.fleet.failover import Answer, Part
from vicuna.serve.watch import logs

log = logging.getLogger(__name__)
Batch = tuple[int, list[Part]]
"""Parts of the answer with that index."""
T = TypeVar("T")


async def wholes(answers: Sequence[Answer], echo: Sequence[str]) -> list[Whole]:
    """All answers to their ends; the first error ends the others.

    Args:
        answers: not begun yet.
        echo: the prompt of each, where it is to stand before the answer; else nothing.
    """
    if len(answers) == 1:
        return [await _whole(answers[0], echo[0] if echo else "")]
    return await _together([_whole(answer, echo[i] if echo else "") for i, answer in enumerate(answers)])


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[Batch, None]:
    """The parts of all answers as they come."""
    if len(answers) == 1:
        async with contextlib.aclosing(answers[0].pieces()) as batches:
            async for batch in batches:
                yield 0, batch
        return
    queue: asyncio.Queue[Batch | Exception | None] = asyncio.Queue(maxsize=4 * len(answers))
    tasks = [asyncio.ensure_future(_feed(queue, index, answer)) for index, answer in enumerate(answers)]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        await _end(tasks)


async def events(
    writer: StreamWriter,
    answers: Sequence[Answer],
    first: Batch,
    batches: AsyncGenerator[Batch, None],
    n: int,
) -> AsyncGenerator[bytes, None]:
    """The server-sent events of all answers, up to the end mark or an error.

    Args:
        writer: of this reply.
        answers: what is computed.
        first: what `batches` gave first.
        batches: of `merged`.
        n: answers of each prompt.
    """

    def written(batch: Batch) -> bytes:
        index, parts = batch
        content, finish = writer.parts(index, parts), parts[-1].finish
        return content if finish is None else content + writer.closing(index, finish, answers[index])

    yield b"".join(writer.opening(index) for index in range(len(answers))) + written(first)
    try:
        async for batch in batches:
            yield written(batch)
    except Fault as fault:
        yield _broken(fault)
    except Exception:
        log.exception("a stream ended with a mistake of ours")
        yield _broken(faults.server_error("internal error; the service's log has the details"))
    else:
        yield writer.ending(usage(answers, n))


def usage(answers: Sequence[Answer], n: int) -> Usage:
    """Each prompt is counted once, however many answers it has; the `n` answers of a prompt stand together."""
    prompts = sum(answer.prompt_tokens for answer in answers[::n])
    return Usage(prompts, sum(answer.completion_tokens for answer in answers))


def _broken(fault: Fault) -> bytes:
    """The end of a stream that began well; the log has the status that it would have had."""
    logs.note(error=fault.code or fault.type, status=fault.status)
    return error_event(fault)


async def _whole(answer: Answer, echo: str) -> Whole:
    whole = Whole(echo)
    async with contextlib.aclosing(answer.pieces()) as batches:
        async for batch in batches:
            for part in batch:
                whole.add(part)
    return whole


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _end(tasks)


async def _feed(queue: "asyncio.Queue[Batch | Exception | None]", index: int, answer: Answer) -> None:
    try:
        async with contextlib.aclosing(answer.pieces()) as batches:
            async for batch in batches:
                await queue.put((index, batch))
        await queue.put(None)
    except Exception as error:  # noqa: BLE001 (raised by the reader of the queue)
        await queue.put(error)


async def _end(tasks: "Sequence[asyncio.Future[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
