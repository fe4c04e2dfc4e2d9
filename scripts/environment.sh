# Sourced by scripts/demo and scripts/test: make .venv in the checkout, or re-use one that is already right.
#
#   prepare EXTRAS    e.g. prepare embedded,test. Afterwards $PYTHON is the environment's interpreter.
#
# Needs Python 3.11 or newer (set PYTHON to choose one) and pip; versions come from constraints.txt. pip's own settings
# (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, pip.conf, ...) are respected. The environment is right when its stamp equals the
# hash of setup.py, constraints.txt and the checkout's path; the stamp is written last, so a broken set-up is repeated.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 2
}

suitable() { # whether $1 runs and is Python 3.11 or newer
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or newer; unset it or point it to one."
        printf '%s' "$PYTHON"
        return
    fi
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if suitable "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer was not found on PATH; install it, or set PYTHON to its path."
}

stamp() { # what the environment must have been made from
    "$1" - "$ROOT" <<'PY'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
parts = [str(root).encode(), *((root / name).read_bytes() for name in ("setup.py", "constraints.txt"))]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PY
}

hint_about_torch() { # the default torch of Linux brings several GB of CUDA libraries
    [ "$(uname -s)" = Linux ] || return 0
    command -v nvidia-smi >/dev/null 2>&1 && return 0
    [ -z "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}" ] || return 0
    say "No GPU seen: with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu pip would take the much smaller" \
        "CPU build of torch."
}

prepare() {
    local extras=$1 system wanted made
    if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
        wanted=$(stamp "$VENV/bin/python")
        # What was set up for the tests serves the demo too.
        for made in "$VENV/.hyperpelt-$extras" "$VENV/.hyperpelt-embedded,test"; do
            if [ "$(cat "$made" 2>/dev/null)" = "$wanted" ]; then
                PYTHON="$VENV/bin/python"
                return
            fi
        done
    else
        system=$(find_python) || exit $?
        say "Making $VENV with $("$system" --version)."
        rm -rf "$VENV"
        "$system" -m venv "$VENV" ||
            fail "$system could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
        wanted=$(stamp "$VENV/bin/python")
    fi
    PYTHON="$VENV/bin/python"
    hint_about_torch
    say "Installing hyperpelt[$extras] into $VENV (several minutes the first time)."
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" -e "$ROOT[$extras]" ||
        fail "pip could not install hyperpelt[$extras]: see above. An index of your own: PIP_INDEX_URL."
    printf '%s\n' "$wanted" >"$VENV/.hyperpelt-$extras"
}
