"""What all tests share."""

import os

from hypothesis import settings

# At a desk every run tries new examples and keeps what fails; in continuous integration the same ones each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
