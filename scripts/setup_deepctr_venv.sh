#!/bin/bash
# Makes the virtual environment of DeepCTR 0.9.4 that benchmarks.deepctr measures against.
#
#   scripts/setup_deepctr_venv.sh [DIR]
#
# DIR is build/deepctr by default (about 1.5 GB). DeepCTR asks for TensorFlow 2 with Keras 2, which
# TensorFlow 2.15 is the last to bundle, and pins an h5py that such a TensorFlow does not need.
set -euo pipefail
if [[ "${1:-}" == -* ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit 0
fi
cd "$(dirname "$0")/.."
venv=${1:-build/deepctr}
python=.venv/bin/python
[[ -x $python ]] || python=python3
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet "tensorflow-cpu==2.15.1" "numpy<2" "requests" "setuptools<81"
"$venv/bin/pip" install --quiet --no-deps "deepctr==0.9.4"
"$venv/bin/python" -c "
import deepctr, tensorflow as tf
print('DeepCTR', deepctr.__version__, 'with TensorFlow', tf.__version__)" 2>/dev/null
