#!/usr/bin/env bash
# From nothing to a judged chatbot on this machine's CPU: environment, then `python -m vicuna quickstart`.
# Arguments go to the quickstart (see: scripts/quickstart.sh --help).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment ""
exec .venv/bin/python -m vicuna quickstart "$@"
