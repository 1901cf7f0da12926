#!/usr/bin/env bash
# Runs the tests in an environment of the project's own (./.venv, made if absent).
# Arguments go to pytest:  ./run_tests.sh -m 'not slow'    ./run_tests.sh tests/amstf -k store
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/setup_venv.sh --dev
[[ $# -eq 0 ]] || exec .venv/bin/python -m pytest "$@"

# Two files at a time: a cluster has several processes of its own.
status=0
.venv/bin/python -m pytest -m "not slow" -n auto --maxprocesses=4 --dist loadfile || status=$?
.venv/bin/python -m pytest -m slow -n 2 --dist loadfile || status=$?
exit "$status"
