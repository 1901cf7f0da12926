#!/usr/bin/env bash
# Style, types and format of the whole tree.  --fix: repair what a tool can repair.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PATH"

mapfile -t cc_files < <(git ls-files --cached --others --exclude-standard '*.cc' '*.h')
if [[ "${1:-}" == --fix ]]; then
  ruff format --quiet .
  ruff check --quiet --fix-only .
  clang-format -i "${cc_files[@]}"
fi
ruff check --quiet --output-format=concise .
ruff format --quiet --diff .
clang-format --dry-run -Werror "${cc_files[@]}"
mypy --no-error-summary
echo "lint: clean"
