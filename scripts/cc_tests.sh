#!/usr/bin/env bash
# Builds and runs the C++ tests (amstf/cc/*/*_test.cc), each linked with all of the logic; those that start
# threads once more under the thread sanitizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=build/cc_tests
mkdir -p "$out"
shopt -s nullglob
tests=(amstf/cc/*/*_test.cc)
logic=()
for file in amstf/cc/{store,meeting,rounds,optimizer,table}/*.cc; do
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

# compile MODE FLAG...: the logic and all tests as objects in $out/MODE, as many at once as there are
# processors.
compile() {
  local mode=$1
  shift
  mkdir -p "$out/$mode"
  printf '%s\n' "${logic[@]}" "${tests[@]}" | xargs -P "$(nproc)" -I{} sh -c '
    out=$1 file=$2
    shift 2
    "${CXX:-g++}" -I. "$@" -c "$file" -o "$out/$(basename "$file" .cc).o"
  ' compile "$out/$mode" {} "$@" "${flags[@]}"
}

passed=0
# run MODE TEST FLAG...: links and runs one test; what it prints is shown only if it fails.
run() {
  local mode=$1 name
  name=$(basename "$2" .cc)
  shift 2
  local objects=("$out/$mode/$name.o")
  for file in "${logic[@]}"; do
    objects+=("$out/$mode/$(basename "$file" .cc).o")
  done
  "${CXX:-g++}" "$@" "${objects[@]}" -o "$out/$mode/$name" "${flags[@]}"
  # Without address randomisation: the sanitizer of g++ 12 does not know the layout of newer kernels.
  setarch -R timeout 120 "$out/$mode/$name" >"$out/$mode/$name.log" 2>&1 || {
    cat "$out/$mode/$name.log" >&2
    echo "error: C++ test $name ($mode) failed" >&2
    exit 1
  }
  passed=$((passed + 1))
}

plain=(-O2 -Wall -Wno-sign-compare)
threads=(-O1 -g -fsanitize=thread)
compile plain "${plain[@]}"
compile threads "${threads[@]}"
for test in "${tests[@]}"; do
  run plain "$test" "${plain[@]}"
  if grep -q '<thread>' "$test"; then
    run threads "$test" "${threads[@]}"
  fi
done
echo "C++ tests: $passed programs passed"
