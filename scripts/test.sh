#!/usr/bin/env bash
# The whole suite from a bare machine: system packages where we are root, environment, format, lint, types, tests.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

# Chromium drives the pages; PostgreSQL is for tests on a database server. What cannot be had is said, and the tests that
# need it are skipped with the reason.
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || apt_install chromium ||
    echo "no Chromium, and it cannot be installed here: the tests in a browser are skipped" >&2
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || apt_install postgresql ||
    echo "no PostgreSQL, and it cannot be installed here: tests on a database server are skipped" >&2

make_environment "[dev]"
export CI="${CI:-true}" # the same examples every time; `.venv/bin/pytest` by itself tries new ones
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy vicuna
exec .venv/bin/pytest "$@"
