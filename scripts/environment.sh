# Sourced by the other scripts: a virtual environment in .venv with the pinned dependencies, made when they changed.
# VICUNA_PYTHON names another interpreter (3.11 or newer).

die() {
    echo "error: $*" >&2
    exit 1
}

make_environment() { # make_environment EXTRAS, e.g. "" or "[dev]"
    local python=${VICUNA_PYTHON:-} extras=$1 stamp wanted candidate
    if [ -z "$python" ]; then
        for candidate in python3.11 python3.12 python3.13 python3; do
            if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
    fi
    [ -n "$python" ] || die "Python 3.11 or newer is needed; on Debian or Ubuntu: apt-get install python3 python3-venv"
    stamp=.venv/.installed
    wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)$extras
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    echo "making the environment in .venv (about a minute, once)"
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        rm -rf .venv
        "$python" -m venv .venv || die "$python cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv"
    fi
    # torch first and exactly: the constraint alone would let pip weigh builds of several gigabytes.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" -c constraints.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras" -c constraints.txt
    echo "$wanted" >"$stamp"
}
