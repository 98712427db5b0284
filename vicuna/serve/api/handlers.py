"""What every serving process answers alike: JSON, faults, and routes that do not exist."""

from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vicuna.serve import faults
from vicuna.serve.encoding import encode
from vicuna.serve.faults import LONGEST_WORDS, Fault
from vicuna.serve.net.asgi import ClientGone, request_id
from vicuna.serve.watch import logs

JSON = "application/json"
CLIENT_GONE = 499
"""What web servers write down for a client that left; nobody reads it."""


def as_json(value: object, request: Request, status: int = 200) -> Response:
    """A reply with the request's id."""
    return Response(encode(value), status, {"x-request-id": request_id(request)}, JSON)


def _refusal(request: Request, fault: Fault) -> Response:
    logs.note(error=fault.code or fault.type)
    headers = {"x-request-id": request_id(request), **fault.headers()}
    return Response(fault.encoded(), fault.status, headers, JSON)


async def on_fault(request: Request, error: Exception) -> Response:
    """A request that cannot be answered, in OpenAI's shape."""
    return _refusal(request, cast(Fault, error))  # registered for this type only


async def on_http_error(request: Request, error: Exception) -> Response:
    """Routes and methods that do not exist."""
    status = getattr(error, "status_code", 500)
    path = request.scope["path"][:LONGEST_WORDS]
    known = {404: f"there is no {path} here", 405: f"{request.method} is not answered here"}
    message = known.get(status, str(getattr(error, "detail", error)))
    code = {404: "not_found", 405: "method_not_allowed"}.get(status)
    return _refusal(request, Fault(message, status=status, code=code, headers=getattr(error, "headers", None)))


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this."""
    return Response(b"", CLIENT_GONE)


async def on_mistake(request: Request, error: Exception) -> Response:
    """A mistake of ours: the log has the traceback, the client only the request id."""
    return _refusal(request, faults.server_error("internal error; the service's log has the details"))


ERROR_HANDLERS = {
    Fault: on_fault,
    HTTPException: on_http_error,
    ClientGone: on_client_gone,
    Exception: on_mistake,
}
