"""What all tests share."""

import os
import signal

from hypothesis import settings

# At a desk every run tries new examples and keeps what fails; in continuous integration the same ones each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and whatever they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
