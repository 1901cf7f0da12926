#!/usr/bin/env bash
# Builds with Bazel, and checks that its op library has the ops of the one that pip built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=.venv/bazel.log
export PYTHON_BIN_PATH="${PYTHON_BIN_PATH:-$PWD/.venv/bin/python}"
# The server would outlive us; what it keeps in memory is of no use to whoever comes next.
trap 'bazel shutdown >/dev/null 2>&1 || true' EXIT
bazel build --color=no --curses=no //... >"$log" 2>&1 || {
  tail -n 60 "$log" >&2
  echo "error: bazel build //... failed; the whole log is $PWD/$log" >&2
  exit 1
}
"$PYTHON_BIN_PATH" scripts/compare_op_libraries.py \
  bazel-bin/amstf/ops/_amstf_ops.so amstf/ops/_amstf_ops.so
