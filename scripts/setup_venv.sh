#!/usr/bin/env bash
# Makes ./.venv with the pinned packages and builds the op library; fast when nothing has changed.
# Usage: scripts/setup_venv.sh [--dev]      (--dev: also what tests and lint need)
# Set PYTHON to use another Python 3.11.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "error: $*" >&2; exit 1; }
is_python311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

# Runs a step with its output kept in a log, which is shown only if the step fails.
step() {
  local message=$1 log=.venv/setup.log
  shift
  echo "setup: $message"
  "$@" >"$log" 2>&1 || { tail -n 25 "$log" >&2; fail "$message: failed, the whole log is $PWD/$log"; }
}

requirements=(-r requirements.txt)
stamp=.venv/.amstf-user
if [[ "${1:-}" == --dev ]]; then
  requirements+=(-r requirements-dev.txt)
  stamp=.venv/.amstf-dev
elif [[ $# -gt 0 ]]; then
  fail "unknown argument '$1'; usage: scripts/setup_venv.sh [--dev]"
fi

command -v "${CXX:-g++}" >/dev/null ||
  fail "the C++ compiler ${CXX:-g++} is missing; on Debian: apt-get install g++"

# Through a link, this would install into an environment that belongs to something else.
[[ ! -L .venv ]] || fail ".venv is a link to $(readlink .venv); remove the link, or use that one directly"

if [[ ! -x .venv/bin/python ]]; then
  python=
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 /usr/bin/python3.11 python3; do
    if is_python311 "$candidate"; then python=$candidate; break; fi
  done
  [[ -n $python ]] ||
    fail "Python 3.11 is missing; on Debian 12: apt-get install python3.11 python3.11-venv"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make environments; on Debian: apt-get install python3.11-venv"
  echo "setup: making .venv with $("$python" --version)"
  "$python" -m venv .venv >/dev/null || { rm -rf .venv; fail "$python -m venv .venv: failed"; }
fi
is_python311 .venv/bin/python || fail ".venv does not work or is not Python 3.11; rm -r .venv"

key=$(cat requirements*.txt pyproject.toml setup.py | sha256sum)
if [[ "$(cat "$stamp" 2>/dev/null)" != "$key" ]]; then
  pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-input)
  step "installing the pinned packages (about 700 MB to download the first time, some minutes)" \
    "${pip[@]}" "${requirements[@]}"
  step "building the C++ ops and installing amstf" \
    "${pip[@]}" --no-build-isolation --no-deps --editable .
  echo "$key" >"$stamp"
fi
# Also when the packages are in place: a C++ source may have changed. Takes no time if none has.
if ! .venv/bin/python setup.py --quiet build_ext --inplace >.venv/build.log 2>&1; then
  tail -n 40 .venv/build.log >&2
  fail "the C++ ops do not build; the whole log is $PWD/.venv/build.log"
fi
