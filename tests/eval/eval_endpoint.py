"""A real HTTP server that speaks OpenAI's chat API and behaves as a script says: answers, errors, delays, garbage."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

Script = Callable[[dict[str, Any]], "str | Response"]
"""Request body → the answer's text, or a whole response (an error, garbage, ...)."""


@dataclass
class Endpoint:
    """A running server and what it was asked."""

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each request came, on the monotonic clock, in seconds."""
    running: int = 0
    peak: int = 0
    """The most requests that were under way at once."""

    def asked(self, model: str) -> list[str]:
        """The last user message of every request for `model`."""
        return [each["messages"][-1]["content"] for each in self.requests if each["model"] == model]


def error(status: int, message: str, **headers: str) -> Response:
    """OpenAI's error body; `retry_after="1"` gives the header retry-after."""
    body = json.dumps({"error": {"message": message, "type": "test", "param": None, "code": None}})
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, shown, "application/json")


def completion(text: str, finish_reason: str = "stop", **headers: str) -> Response:
    """A chat completion with a finish reason and headers of its own."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": len(text.split()), "total_tokens": 7 + len(text.split())}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Response(json.dumps(body), 200, headers, "application/json")


@contextlib.contextmanager
def serving(script: Script, models: dict[str, str] | None = None, delay: float = 0.0) -> Iterator[Endpoint]:
    """Serve `script` on a free port; `models`: name → checkpoint hash in the model list."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    server = uvicorn.Server(uvicorn.Config(_app(script, models or {}, endpoint, delay), log_level="error"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield endpoint
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _app(script: Script, models: dict[str, str], endpoint: Endpoint, delay: float) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def listing() -> dict[str, Any]:
        rows = [
            {"id": name, "object": "model", "created": 1, "owned_by": "test", "checkpoint_hash": each}
            for name, each in models.items()
        ]
        return {"object": "list", "data": rows}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        endpoint.requests.append(body)
        endpoint.times.append(time.monotonic())
        endpoint.running += 1
        endpoint.peak = max(endpoint.peak, endpoint.running)
        await asyncio.sleep(delay)
        endpoint.running -= 1
        answer = script(body)
        if isinstance(answer, Response):
            return answer
        return completion(answer, **{"x-vicuna-worker": "w1", "x-vicuna-checkpoint": models.get(body["model"], "")})

    return app
