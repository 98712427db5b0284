#!/usr/bin/env bash
# What one runs while working: format, lint, types, and the tests that need neither a browser nor minutes.
# Arguments go to pytest, e.g. scripts/check.sh tests/data -k markdown
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment "[dev]"
.venv/bin/ruff format .
.venv/bin/ruff check --fix .
.venv/bin/mypy vicuna
.venv/bin/pytest -x -m "not browser and not slow and not gpu" "$@"
