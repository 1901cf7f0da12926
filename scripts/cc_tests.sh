#!/usr/bin/env bash
# Builds and runs the C++ tests (amstf/cc/store/*_test.cc), each with all of the logic it tests; those
# that start threads once more under the thread sanitizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=build/cc_tests
mkdir -p "$out"
shopt -s nullglob
tests=(amstf/cc/store/*_test.cc)
logic=()
for file in amstf/cc/store/*.cc; do
  [[ $file == *_test.cc ]] || logic+=("$file")
done

# What TensorFlow says about itself, one flag a line: its headers bring Abseil.
TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python - >"$out/flags" <<'PYTHON'
import tensorflow as tf

lib = tf.sysconfig.get_lib()
print(*(flag.replace("-I", "-isystem") for flag in tf.sysconfig.get_compile_flags()), sep="\n")
print(*tf.sysconfig.get_link_flags(), f"-Wl,-rpath,{lib}", "-pthread", sep="\n")
PYTHON
mapfile -t flags <"$out/flags"

passed=0
# run NAME SOURCE FLAG...: compiles and runs one test; what it prints is shown only if it fails.
run() {
  local name=$1 source=$2
  shift 2
  "${CXX:-g++}" -I. "$@" "$source" "${logic[@]}" -o "$out/$name" "${flags[@]}"
  # Without address randomisation: the sanitizer of g++ 12 does not know the layout of newer kernels.
  setarch -R timeout 120 "$out/$name" >"$out/$name.log" 2>&1 || {
    cat "$out/$name.log" >&2
    echo "error: C++ test $name failed" >&2
    exit 1
  }
  passed=$((passed + 1))
}

for test in "${tests[@]}"; do
  name=$(basename "$test" .cc)
  run "$name" "$test" -O2 -Wall -Wno-sign-compare
  if grep -q '<thread>' "$test"; then
    run "${name}_tsan" "$test" -O1 -g -fsanitize=thread
  fi
done
echo "C++ tests: $passed programs passed"
