"""The quickstart from its command line to its last table."""

import contextlib
import dataclasses
import socket
import time
from pathlib import Path

from vicuna import command as commands
from vicuna.errors import ConfigError
from vicuna.files import write_json
from vicuna.quickstart.children import Children, Timing
from vicuna.quickstart.config import QuickstartConfig
from vicuna.quickstart.stages import build_stages, eval_stage
from vicuna.quickstart.summary import memory_of_family, show, summarise


def command(argv: list[str]) -> int:
    """`python -m vicuna quickstart`."""
    return commands.run(QuickstartConfig, main, argv, "python -m vicuna quickstart")


def main(config: QuickstartConfig) -> None:
    """Run the stages, show the summary, keep the demo up."""
    config = free_ports(config)  # now, not after minutes of training
    out = Path(config.out)
    began = time.monotonic()
    with Children() as children, memory_of_family() as memory:
        timings = [children.run(stage) for stage in build_stages(config)]
        start = time.monotonic()
        api, page = children.serve(config)
        timings.append(Timing("serve", time.monotonic() - start, reused=False))
        timings.append(children.run(eval_stage(config, api)))
        seconds = time.monotonic() - began
        summary = summarise(out, timings, seconds, memory.peak)
        write_json(out / "summary.json", summary)
        show(summary, out, api, page if config.demo else "")
        if config.demo:
            children.wait()


def free_ports(config: QuickstartConfig) -> QuickstartConfig:
    """The settings with any port 0 replaced by a free one.

    Raises:
        ConfigError: a port that was asked for is in use.
    """
    with contextlib.ExitStack() as held:
        ports = {}
        for name in ("port", "web_port"):
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", getattr(config, name)))
            except OSError as error:
                raise ConfigError(f"port {getattr(config, name)} is in use; choose another with --{name}") from error
            ports[name] = sock.getsockname()[1]
    return dataclasses.replace(config, **ports)
