"""A child ends when its parent does, however the parent ended.

The parent holds one end of a pipe and never writes to it. When the parent is gone, by whatever signal, the other end
reads as closed, on every kind of Unix.
"""

import os
import signal
import threading

VARIABLE = "VICUNA_LIFELINE"
"""Environment variable with the number of the file descriptor to watch."""


def watch() -> None:
    """In a child: end this process as soon as the parent is gone. Does nothing without the environment variable."""
    number = os.environ.pop(VARIABLE, "")
    if number:
        threading.Thread(target=_wait, args=(int(number),), name="lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # with the children that this process has started
    os.kill(os.getpid(), signal.SIGKILL)
