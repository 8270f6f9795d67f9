# Sourced by the other scripts: makes .venv ready and sets $PYTHON. Nothing outside the checkout is changed, except
# that root on Debian or Ubuntu gets missing system packages installed (python3-venv, and what the caller asks for).

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Importing onnxruntime, which the training and a test do by themselves, would otherwise send usage data.
export ORT_DISABLE_TELEMETRY=1

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

# apt_install PACKAGE...: install Debian packages if we may; otherwise name the command and go on.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        say "not Debian or Ubuntu: install the equivalent of: $*"
        return 0
    fi
    if [ "$(id -u)" != 0 ]; then
        say "not root: to install what is missing, run: sudo apt-get install $*"
        return 0
    fi
    say "installing Debian packages: $*"
    # Peers are started by the tests on ports of their own; Debian would start Orthanc as a service on install.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy" && made=1; }
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        >"${TMPDIR:-/tmp}/appliance-apt.log" 2>&1 || say "apt-get failed, see ${TMPDIR:-/tmp}/appliance-apt.log"
    [ -z "$made" ] || rm -f "$policy"
}

find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    say "Python 3.11 or newer is needed; on Debian 12 or Ubuntu 24.04: apt-get install python3 python3-venv"
    return 1
}

# make_venv EXTRAS: create .venv and install the project with its extras, once per state of pyproject.toml.
make_venv() {
    local extras="$1" base stamp
    PYTHON="$ROOT/.venv/bin/python"
    stamp="$ROOT/.venv/.installed-$(cksum < "$ROOT/pyproject.toml" | tr ' ' -)-${extras:-none}"
    [ -e "$stamp" ] && [ -x "$PYTHON" ] && return 0
    base="$(find_python)" || return 1
    "$base" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    if [ ! -x "$PYTHON" ]; then
        say "creating the virtual environment .venv with $("$base" --version)"
        "$base" -m venv "$ROOT/.venv" || return 1
    fi
    say "installing the Python packages (some minutes the first time)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -e "$ROOT${extras:+[$extras]}" || return 1
    touch "$stamp"
}
