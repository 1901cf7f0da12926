#!/bin/bash
# Loads exports in a newer TensorFlow and compares what they give with what they give in this one.
#
#   scripts/check_newer_tensorflow.sh EXPORT [EXPORT ...]
#
# TENSORFLOW=2.21.0 is the version (default), VENV=DIR where to put its virtual environment, which is
# made with pip the first time (about 2 GB) and used again afterwards. The models answer random
# requests to every signature, made from the shapes that the signatures declare.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${TENSORFLOW:-2.21.0}
venv=${VENV:-build/tensorflow-$version}
if [[ $# -eq 0 || $1 == -* ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit $(( $# == 0 ? 2 : 0 ))
fi
python=.venv/bin/python
[[ -x $python ]] || python=python3
if ! "$venv/bin/python" -c "import tensorflow as tf; assert tf.__version__ == '$version'" \
    2>/dev/null; then
  echo "making $venv with tensorflow $version" >&2
  "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet "tensorflow==$version"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" scripts/ask_exports.py questions "$work/questions" "$@" 2>/dev/null
for which in this newer; do
  who=$python
  [[ $which == newer ]] && who=$venv/bin/python
  "$who" -I -c 'import tensorflow as tf; print(tf.__version__)' 2>/dev/null
  if ! "$who" -I launch/reload_check.py "$work/questions" "$work/$which" 2>"$work/log"; then
    tail -3 "$work/log" >&2
    exit 1
  fi
done
"$python" scripts/ask_exports.py compare "$work/questions" "$work/this" "$work/newer" 2>/dev/null
