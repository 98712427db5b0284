"""The engine `upstream`: another OpenAI-compatible server computes (vLLM, SGLang, llama.cpp, a commercial API).

Such a server tells no token ids, so an answer that moves to it, or from it, goes on from its text: exact where the
server continues a chat's last message (`engine.upstream.resume`), and not at all where it does not. The most tokens of
a continued answer, and its count of tokens, are those of its last share: nobody can tell how many tokens the text so
far is for that server.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from vicuna.errors import ConfigError
from vicuna.files import sha256_text
from vicuna.serve import faults
from vicuna.serve.config import HostedConfig, TlsConfig
from vicuna.serve.engines import SLOTS, Embedded, Piece, Step
from vicuna.serve.engines.upstream_wire import Full, Reading, events, failed, refusal, request
from vicuna.serve.faults import Fault
from vicuna.serve.names import names_of
from vicuna.serve.net import tls
from vicuna.serve.protocol import FEATURES, EmbedJob, Job, ServedModel

log = logging.getLogger(__name__)
CONNECT = 5.0
"""Most seconds to wait for a connection; the server may be far away."""
IDLE = 2.0
"""Seconds that an idle connection is kept; less than any server keeps its end (uvicorn: 5)."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at a server that does not answer."""
TAIL = 0.2
"""Seconds to wait for a stream's end behind its last event, so that the connection can be used again."""
LONGEST_REPLY = 256 * 1024 * 1024
"""Bytes of a reply that is read as a whole; 2,048 long vectors are about 50 MB."""
_NOT_OFFERED = ("tokenize", "resume")


class UpstreamEngine:
    """See the module."""

    kind = "upstream"

    def __init__(self, config: HostedConfig, trust: TlsConfig | None = None) -> None:
        self.capacity = config.engine.slots or SLOTS
        self._names = names_of(config)
        self._config = config
        self._settings = config.engine.upstream
        self._url = self._settings.url.rstrip("/")
        self._model = self._settings.model
        self._key = os.environ.get(self._settings.key, "").strip() if self._settings.key else ""
        self._trusted = tls.trust(trust or TlsConfig())
        self._features = _features(self._settings.features, self._settings.resume)
        self._row: Mapping[str, Any] = {}
        self._limit_field = "max_tokens"
        self._running = 0
        self._trouble = ""
        self._watch: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------- finding the model
    async def start(self) -> None:
        """Wait for the server, as long as its timeout, and find the model there."""
        connect = min(CONNECT, self._settings.timeout)
        self._session = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {self._key}"} if self._key else {},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE, ssl=self._trusted),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=self._settings.timeout),
        )
        try:
            async with asyncio.timeout(self._settings.timeout):
                rows = await self._wait_for_models()
        except TimeoutError:
            raise ConfigError(
                f"engine.upstream.url: {self._url} {self._trouble or 'does not answer'}; start that server first, or "
                "correct the address (with the path before /chat/completions, such as /v1)"
            ) from None
        self._row = self._choose(rows)
        self._model = str(self._row["id"])
        self._trouble = ""
        log.info("the model %s of %s answers here", self._model, urlsplit(self._url).netloc)

    async def _wait_for_models(self) -> list[dict[str, Any]]:
        while True:
            try:
                return await self._models()
            except Fault as fault:
                if fault.status == 401:
                    raise ConfigError(f"engine.upstream: {fault}") from fault
                if not self._trouble:
                    log.info("waiting for the server at %s", self._url)
                self._trouble = str(fault).removeprefix(str(failed("")))
            await asyncio.sleep(LOOK_AGAIN)

    async def _models(self) -> list[dict[str, Any]]:
        """Raises a Fault; of status 401 where the key is refused."""
        status, content = await self._call("GET", "/models")
        if status in (401, 403):
            name = self._settings.key or "engine.upstream.key"
            what = "needs an API key" if not self._key else "refuses the API key"
            raise Fault(f"the server {what}; put one into the environment variable {name}", status=401)
        if status in (404, 405) and self._model:  # not every server has a list
            return [{"id": self._model}]
        if status != 200:
            raise failed(f"answers {self._url}/models with status {status}")
        try:
            return [row for row in json.loads(content)["data"] if isinstance(row["id"], str)]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise failed(f"answers {self._url}/models with something that is no list of models") from error

    def _choose(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = [row for row in rows if row["id"] == self._model] if self._model else rows
        if len(found) == 1:
            return found[0]
        served = ", ".join(row["id"] for row in rows[:20]) or "none"
        what = "serves several models" if found else f"does not serve {self._model!r}" if self._model else "serves none"
        raise ConfigError(f"{self._url} {what}; set engine.upstream.model to one of: {served}")

    def models(self) -> Sequence[ServedModel]:
        """Servers of one model are replicas wherever they are; one of ours passes its own hashes on."""
        return [self._served(name) for name in self._names]

    def _served(self, name: str) -> ServedModel:
        given = self._row.get("checkpoint_hash")
        length = self._row.get("max_model_len")
        return ServedModel(
            name=name,
            checkpoint_hash=given if isinstance(given, str) and given else sha256_text(f"upstream\n{self._model}"),
            template_hash=str(self._row.get("template_hash") or ""),
            max_length=length if isinstance(length, int) and length > 0 else self._config.model.max_length,
            version=self._config.version,
            features=self._features,
        )

    # ------------------------------------------------------------------------------------- one answer
    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The answer's pieces; ids are not known. Closing it closes the connection, so that the server stops too."""
        if job.shown and job.tokens is not None:
            raise failed("cannot go on from token ids and text together")
        reading = Reading(job)
        self._running += 1
        try:
            async with self._ask(job) as reply:
                async with contextlib.aclosing(events(reply.content.iter_any())) as found:
                    async for event in found:
                        if piece := reading.piece(event):
                            yield piece
                if reading.finish is None:
                    raise failed("ended its stream before the answer's end")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TAIL):
                        await reply.content.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._away(error) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise failed("sent something that is not of OpenAI's shape") from error
        except Full as full:
            raise faults.server_error("the server behind this worker is busy", status=503, code="full") from full
        finally:
            self._running -= 1
        yield reading.last()

    @contextlib.asynccontextmanager
    async def _ask(self, job: Job) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The stream of an answer."""
        for last_try in (False, True):
            path, body = request(job, self._model, self._settings.resume, self._limit_field)
            async with self._session.post(self._url + path, json=body, allow_redirects=False) as reply:
                if reply.status == 200:
                    yield reply
                    return
                fault = self._refusal(reply.status, await reply.read())
                if last_try or not self._wants_other_limit(fault):
                    raise fault

    def _wants_other_limit(self, fault: Fault) -> bool:
        """OpenAI's newer models refuse `max_tokens`, and many other servers overlook the newer field."""
        newer = "max_completion_tokens"
        if fault.param == self._limit_field != newer and newer in str(fault):
            self._limit_field = newer
            return True
        return False

    def _refusal(self, status: int, content: bytes) -> Fault:
        if status in (401, 403):
            self._note_trouble(f"the server refuses this worker's API key (status {status})")
        fault = refusal(status, content)
        return self._without_secrets(fault)

    def _without_secrets(self, fault: Fault) -> Fault:
        """What another server says goes to our clients, who need not know where it is."""
        message = str(fault)
        for secret in filter(None, (self._key, self._url, urlsplit(self._url).netloc)):
            message = message.replace(secret, "...")
        return Fault(message, status=fault.status, type=fault.type, code=fault.code, param=fault.param)

    # ------------------------------------------------------------------------------------- embeddings
    async def embed(self, job: EmbedJob) -> Embedded:
        """Vectors of the job's texts, as the server gives them."""
        body: dict[str, Any] = {"model": self._model, "input": list(job.texts) or [list(row) for row in job.tokens]}
        body["encoding_format"] = "base64"
        if job.dimensions is not None:
            body["dimensions"] = job.dimensions
        self._running += 1
        try:
            status, content = await self._call("POST", "/embeddings", body)
            if status != 200:
                raise self._refusal(status, content)
            return await asyncio.to_thread(_embedded, content)
        except Full as full:
            raise faults.server_error("the server behind this worker is busy", status=503, code="full") from full
        finally:
            self._running -= 1

    async def tokenize(self, job: Job) -> list[int]:
        """Not part of OpenAI's API."""
        raise faults.unsupported("model", "the server behind this worker shows no tokens")

    async def _call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        try:
            async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as reply:
                content = b""
                async for part in reply.content.iter_any():
                    content += part
                    if len(content) > LONGEST_REPLY:
                        raise failed("sends a reply without an end")
                return reply.status, content
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._away(error) from error

    # ------------------------------------------------------------------------------------- state
    def load(self) -> Mapping[str, float]:
        """Answers that run."""
        return {"running": float(self._running)}

    def observe(self, watch: Callable[[Step], None]) -> None:
        """The server's steps are not seen here."""

    def trouble(self) -> str | None:
        """Why the server cannot be used; it is looked at until it can."""
        return self._trouble or None

    def _away(self, error: Exception) -> Fault:
        slow = isinstance(error, TimeoutError)
        what = f"gave no sign of life for {self._settings.timeout:g} s" if slow else "cannot be reached"
        if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
            what = "closed the connection"
        self._note_trouble(f"the server {what}")
        return failed(what)

    def _note_trouble(self, what: str) -> None:
        if self._row and not self._trouble:
            log.warning("%s: %s", self._url, what)
            self._trouble = what
            self._watch = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            with contextlib.suppress(Fault):
                await self._models()
                break
        log.info("%s: the server is well again", self._url)
        self._trouble = ""

    async def close(self) -> None:
        """Let the connections go."""
        if self._watch is not None:
            self._watch.cancel()
        await self._session.close()


def _features(given: tuple[str, ...], resume: str) -> frozenset[str]:
    for feature in given:
        if feature not in FEATURES or feature in _NOT_OFFERED:
            possible = ", ".join(each for each in FEATURES if each not in _NOT_OFFERED)
            raise ConfigError(f"engine.upstream.features are of {possible}; got {feature!r}")
    return frozenset(given) | ({"resume"} if resume != "no" else frozenset())


def _embedded(content: bytes) -> Embedded:
    """For a thread: there may be millions of numbers."""
    import numpy as np

    try:
        body = json.loads(content)
        rows = sorted(body["data"], key=lambda row: row["index"])
        given = [row["embedding"] for row in rows]
        vectors: list[Any] = [
            np.frombuffer(base64.b64decode(each), dtype="<f4") if isinstance(each, str) else each for each in given
        ]
        return Embedded(vectors, int(body["usage"]["prompt_tokens"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise failed("sent embeddings that are not of OpenAI's shape") from error
