"""The live page about the fleet: one document that holds no data and asks for GET /fleet as JSON every second."""

import base64
import functools
import hashlib
import re
from importlib.resources import files

from starlette.responses import Response

from vicuna.page import page as document

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@functools.cache
def page() -> bytes:
    """The document, with everything it needs in it."""
    folder = files("vicuna.serve.watch")
    body, style, script = (folder.joinpath(f"board.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    icon = '<link rel="icon" href="data:,">'
    head = f"{icon}<style>{style}</style>"
    return document("Fleet", [], lead=f"{body}<script>{script}</script>", head=head).encode()


@functools.cache
def policy() -> str:
    """What the browser may do for this page: run exactly its own script, and speak to its own address."""
    allowed: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _INLINE.findall(page().decode()):
        allowed[kind].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    return (
        f"default-src 'none'; style-src {' '.join(allowed['style'])}; script-src {' '.join(allowed['script'])}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def response() -> Response:
    """The page as a reply."""
    headers = {
        "content-security-policy": policy(),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
    return Response(page(), headers=headers, media_type="text/html")
