# Sourced by the other scripts: a virtual environment in .venv with the pinned dependencies, made when they changed.
# VICUNA_PYTHON names another interpreter (3.11 or newer).

die() {
    echo "error: $*" >&2
    exit 1
}

apt_install() { # Debian packages, where we are root; returns 1 where they cannot be had
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

find_python() { # prints the first interpreter that is new enough
    local candidate
    for candidate in ${VICUNA_PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

make_environment() { # make_environment EXTRAS, e.g. "" or "[dev]"
    local extras=$1 python stamp=.venv/.installed wanted
    wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)$extras
    if [ -f "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then
        case "$(cat "$stamp")" in
        "$wanted" | "$wanted[dev]") return ;;
        esac
    fi
    python=$(find_python)
    [ -n "$python" ] || die "Python 3.11 or newer is needed; on Debian or Ubuntu: apt-get install python3 python3-venv"
    echo "making the environment in .venv (a minute or two, once)"
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        rm -rf .venv
        "$python" -c 'import ensurepip' 2>/dev/null || apt_install "$(basename "$python")-venv" || apt_install python3-venv ||
            die "$python cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv"
        "$python" -m venv .venv || die "$python cannot make a virtual environment in .venv"
    fi
    # torch first and exactly: left to itself pip would weigh builds of several gigabytes.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" -c constraints.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras" -c constraints.txt
    echo "$wanted" >"$stamp"
}
