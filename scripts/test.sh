#!/usr/bin/env bash
# The whole suite from a bare machine: environment, system packages where we are root, format, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

system_packages() { # Chromium drives the pages' tests, PostgreSQL the store's; without root we say what is left out.
    local missing=()
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing+=(chromium)
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "not root: ${missing[*]} not installed; the tests that need them are skipped and say so" >&2
    fi
}

system_packages
make_environment "[dev]"
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy vicuna
exec .venv/bin/pytest "$@"
