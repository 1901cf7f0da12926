"""Checks that op libraries load and hold the same ops: what Bazel built against what pip built.

Usage: compare_op_libraries.py LIBRARY OTHER_LIBRARY
"""

import pathlib
import subprocess
import sys

# In a process of its own for each library, since an op is registered only once in a process.
LIST_OPS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
print("@@", *sorted(op.name for op in tf.load_op_library(sys.argv[1]).OP_LIST.op))
"""


def ops_of(library: pathlib.Path) -> set[str]:
    """The names of the ops that a library registers when it is loaded."""
    command = [sys.executable, "-c", LIST_OPS, str(library.resolve())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"error: {library} does not load:\n{result.stderr[-3000:]}")
    return set(result.stdout.split("@@", 1)[1].split())


def main() -> None:
    """Compares; exits with 1 and the ops that differ, or says how many there are."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    first, second = (pathlib.Path(argument) for argument in sys.argv[1:])
    first_ops, second_ops = ops_of(first), ops_of(second)
    if first_ops != second_ops:
        sys.exit(
            f"error: only in {first}: {sorted(first_ops - second_ops)}; "
            f"only in {second}: {sorted(second_ops - first_ops)}"
        )
    if not first_ops:
        sys.exit(f"error: {first} registers no op")
    print(f"{first} and {second} hold the same {len(first_ops)} ops")


if __name__ == "__main__":
    main()
