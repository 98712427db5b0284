"""The command that serves the chat page. Gradio is imported only when it runs."""

import logging
import os
from typing import Any

from vicuna.command import run as run_command
from vicuna.serve.config import WebConfig
from vicuna.serve.net import server

log = logging.getLogger(__name__)


def make_app(config: WebConfig) -> Any:
    """The page as a web application."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it while it is imported
    import gradio as gr
    from fastapi import FastAPI

    from vicuna.serve.web import look, page
    from vicuna.serve.web.policy import OwnContentOnly

    blocks = page.build(config, os.environ.get("VICUNA_API_KEY", ""))
    app = FastAPI(openapi_url=None)
    app.add_middleware(OwnContentOnly)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="",
        theme=look.theme(),
        css=look.CSS,
        footer_links=[],
        ssr_mode=False,
    )


def main(config: WebConfig) -> None:
    """Serve until told to stop."""
    sock = server.listen(config.host, config.port)
    app = make_app(config)
    log.info("chat page: %s (answers from %s)", server.url(config.host, server.port_of(sock)), config.api)

    async def body() -> None:
        await server.run(server.make(app, grace=1), sock)

    server.run_loop(body)


def command(argv: list[str]) -> int:
    """`python -m vicuna.serve web`."""
    return run_command(WebConfig, main, argv, "python -m vicuna.serve web")
