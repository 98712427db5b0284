"""A converter from HTML to markdown behind a pipe, so that each one runs in its own environment.

    python adapter.py MODULE:FUNCTION < requests > answers

Needs nothing but the standard library and the converter. Each line is JSON: `{"pages": FILE, "out": FILE}` reads a
JSON list of HTML strings, converts each, writes the list of results (null where the converter raised), and answers with
`{"cpu": seconds, "errors": n}`; only the conversions are timed.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until the requests end."""
    module, function = sys.argv[1].split(":")
    convert: Callable[[str], Any] = getattr(importlib.import_module(module), function)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a converter prints shall not get between the answers
    for line in sys.stdin:
        request = json.loads(line)
        pages = json.loads(Path(request["pages"]).read_text(encoding="utf-8"))
        results: list[str | None] = []
        started = time.process_time()
        for page in pages:
            try:
                made = convert(page)
            except Exception:  # noqa: BLE001  a peer may raise anything; it is counted as a failure
                results.append(None)
                continue
            results.append(made if isinstance(made, str) else made.content or "")
        cpu = time.process_time() - started
        Path(request["out"]).write_text(json.dumps(results), encoding="utf-8")
        answers.write(json.dumps({"cpu": cpu, "errors": results.count(None)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
