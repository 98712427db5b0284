"""The API described for programs: an OpenAPI document, made of a table of routes and the models of what they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import vicuna
from vicuna.serve.api.bodies import (
    ChatCompletion,
    EmbeddingList,
    ErrorBody,
    Health,
    ModelList,
    ModelRow,
    TextCompletion,
    TokenList,
)
from vicuna.serve.api.requests import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest
from vicuna.serve.protocol import Heartbeat, Leave, Registration, Which

REFERENCE = "#/components/schemas/{model}"
STATUSES = {
    400: "The request is wrong; `param` names the field.",
    401: "No valid API key, or no valid signature.",
    403: "The API key does not open this, or the address is not allowed.",
    404: "There is no such model or worker.",
    408: "The request came too slowly.",
    409: "Another worker serves this name with other weights.",
    413: "The body is too large.",
    429: "Too much at once; `retry-after` says when to try again.",
    431: "The headers are too large.",
    500: "A mistake of the service; its log has the details under the request's id.",
    502: "Workers failed, and no other could take over.",
    503: "No worker is there at the moment.",
    504: "The answer took too long.",
}
EVENT = {
    "type": "object",
    "description": "`data` is a chunk of the reply as JSON; an ErrorBody where the reply broke off; at the end [DONE].",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}
_ASK = (400, 401, 403, 404, 408, 413, 429, 431, 500, 502, 503, 504)
_LOOK = (401, 403, 500)
_REPORT = (400, 401, 403, 404, 408, 409, 413, 431, 500)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A route and method."""

    method: Literal["get", "post"]
    path: str
    summary: str
    errors: tuple[int, ...]
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | None = None
    """None: some JSON object."""
    stream: bool = False
    """Whether the reply may also come as server-sent events."""
    text: bool = False
    """Whether the reply is text, not JSON."""


OPERATIONS = (
    Operation(method="get", path="/v1/models", summary="What is served now", errors=_LOOK, gives=ModelList),
    Operation(
        method="get",
        path="/v1/models/{model}",
        summary="One model, if it is served now",
        errors=(*_LOOK, 404),
        gives=ModelRow,
    ),
    Operation(
        method="post",
        path="/v1/chat/completions",
        summary="Answer a chat",
        errors=_ASK,
        takes=ChatRequest,
        gives=ChatCompletion,
        stream=True,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        summary="Continue one or several prompts",
        errors=_ASK,
        takes=CompletionRequest,
        gives=TextCompletion,
        stream=True,
    ),
    Operation(
        method="post",
        path="/v1/embeddings",
        summary="A vector for each text",
        errors=_ASK,
        takes=EmbeddingRequest,
        gives=EmbeddingList,
    ),
    Operation(
        method="post",
        path="/tokenize",
        summary="The token ids of a prompt or a chat",
        errors=_ASK,
        takes=TokenizeRequest,
        gives=TokenList,
    ),
    Operation(method="get", path="/health", summary="Whether the controller is well", errors=(500,), gives=Health),
    Operation(method="get", path="/metrics", summary="Numbers for Prometheus", errors=_LOOK, text=True),
    Operation(method="get", path="/fleet", summary="Every worker, and what it does", errors=_LOOK),
    Operation(method="post", path="/fleet/register", summary="A worker joins", errors=_REPORT, takes=Registration),
    Operation(
        method="post", path="/fleet/heartbeat", summary="A worker's sign of life", errors=_REPORT, takes=Heartbeat
    ),
    Operation(method="post", path="/fleet/leave", summary="A worker leaves", errors=_REPORT, takes=Leave),
    Operation(
        method="post",
        path="/fleet/drain",
        summary="A worker is to finish what it has and leave",
        errors=(*_REPORT, 502),
        takes=Which,
    ),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document; the same on every machine."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "vicuna", "version": vicuna.__version__},
        "paths": paths,
        "components": {
            "schemas": _schemas(OPERATIONS),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    models: set[type[BaseModel]] = {ErrorBody}
    for operation in operations:
        models.update(each for each in (operation.takes, operation.gives) if each is not None)
    ordered = sorted(models, key=lambda each: each.__name__)
    _, found = models_json_schema([(each, "validation") for each in ordered], ref_template=REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _name(operation),
        "parameters": list(_parameters(operation)),
        "responses": {"200": _reply(operation), **{str(status): _error(status) for status in sorted(operation.errors)}},
    }
    if operation.takes is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": _schema(operation.takes)}}
    if 401 in operation.errors and operation.errors != _REPORT:
        described["security"] = [{"key": []}, {}]  # {}: a controller may be run without keys
    return described


def _name(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace("/", " ").replace(".", " ").split()
    return "_".join([operation.method, *words])


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string"}
    parameters: list[dict[str, Any]] = []
    if "{model}" in operation.path:
        parameters.append({"name": "model", "in": "path", "required": True, "schema": {**text, "minLength": 1}})
    if operation.errors is _ASK:
        words = "Seconds until the client has no more use for the answer."
        number = {"type": "number", "exclusiveMinimum": 0}
        parameters.append({"name": "x-vicuna-timeout", "in": "header", "description": words, "schema": number})
    words = "The request's id in replies and logs; one is made where none is given."
    parameters.append({"name": "x-request-id", "in": "header", "description": words, "schema": text})
    return parameters


def _reply(operation: Operation) -> dict[str, Any]:
    if operation.text:
        kinds: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        kinds = {"application/json": _schema(operation.gives)}
    if operation.stream:
        kinds["text/event-stream"] = {"schema": EVENT}
    return {"description": operation.summary, "content": kinds, "headers": _headers()}


def _error(status: int) -> dict[str, Any]:
    content = {"application/json": _schema(ErrorBody)}
    return {"description": STATUSES[status], "content": content, "headers": _headers()}


def _headers() -> dict[str, Any]:
    return {"x-request-id": {"schema": {"type": "string"}}}


def _schema(model: type[BaseModel] | None) -> dict[str, Any]:
    if model is None:
        return {"schema": {"type": "object"}}
    return {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}
