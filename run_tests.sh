#!/usr/bin/env bash
# Runs the tests in an environment of the project's own (./.venv, made if absent).
# Arguments go to pytest:  ./run_tests.sh -m 'not slow'    ./run_tests.sh tests/amstf -k store
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/setup_venv.sh --dev
exec .venv/bin/python -m pytest "$@"
