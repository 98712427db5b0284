"""One request after another as a person's program would send it, with the time of every piece of text."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Heard:
    """What came back for one request."""

    began: float = field(default_factory=time.monotonic)
    status: int = 0
    text: str = ""
    error: str = ""
    """Code or message of what went wrong; "" where the answer is whole."""
    typed: bool = False
    """The error has OpenAI's form, with a type."""
    times: list[float] = field(default_factory=list)
    """When each piece of text came."""
    ended: float = 0.0
    workers: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the request to the end of the answer or to the error."""
        return self.ended - self.began

    @property
    def gap(self) -> float:
        """The longest time between two pieces of text, in seconds."""
        return max((after - before for before, after in zip(self.times, self.times[1:], strict=False)), default=0.0)


class Talker:
    """A client of one address."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self.base = base

    async def ask(
        self,
        text: str = "hi",
        model: str = "lab",
        *,
        stream: bool = True,
        patience: float = 60,
        heard: Heard | None = None,
        **extra: Any,
    ) -> Heard:
        """Send a chat with one message; whatever happens is in what was heard, for who gives `heard` at once."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream} | extra
        return await self.send(json.dumps(body).encode(), patience, heard)

    async def send(self, body: bytes, patience: float = 60, heard: Heard | None = None) -> Heard:
        """Send any body to /v1/chat/completions."""
        heard = heard or Heard()
        timeout = aiohttp.ClientTimeout(total=patience)
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(
                f"{self.base}/v1/chat/completions", data=body, headers=headers, timeout=timeout
            ) as reply:
                heard.status = reply.status
                if reply.status == 200 and reply.content_type == "text/event-stream":
                    await self._stream(heard, reply)
                else:
                    self._whole(heard, reply.status, await reply.read())
        except TimeoutError:
            heard.error = "no answer"
        except (aiohttp.ClientError, OSError) as error:
            heard.error = f"connection broke ({type(error).__name__})"
        heard.ended = time.monotonic()
        return heard

    async def _stream(self, heard: Heard, reply: aiohttp.ClientResponse) -> None:
        finished = False
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                finished |= line.startswith(b"data: [DONE]")
                continue
            event = json.loads(line[6:])
            if "error" in event or "error_code" in event:
                self._failed(heard, event)
                return
            heard.workers = event.get("vicuna", {}).get("workers", heard.workers)
            for choice in event["choices"]:
                finished |= bool(choice.get("finish_reason"))  # transformers' server says nothing after it
                if piece := choice["delta"].get("content"):
                    heard.text += piece
                    heard.times.append(time.monotonic())
        if not finished:
            heard.error = "ended in the middle"

    def _whole(self, heard: Heard, status: int, body: bytes) -> None:
        try:
            value = json.loads(body)
        except ValueError:
            heard.error = body[:60].decode("latin1") or "empty body"
            return
        if status != 200 or "choices" not in value:
            self._failed(heard, value)
            return
        heard.text = value["choices"][0]["message"]["content"]
        heard.times.append(time.monotonic())

    def _failed(self, heard: Heard, value: Any) -> None:
        error = value.get("error") if isinstance(value, dict) else None
        heard.typed = isinstance(error, dict) and bool(error.get("type"))
        said = (error.get("code") or error.get("message")) if isinstance(error, dict) else value.get("message", value)
        heard.error = str(said)[:80]
