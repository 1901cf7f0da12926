"""Checks that op libraries load and hold the same ops: what Bazel built against what pip built.

Usage: compare_op_libraries.py LIBRARY OTHER_LIBRARY
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

# In a process of its own for each library, since an op is registered only once in a process.
LIST_OPS = """
import os, pathlib, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from amstf.ops import _load
made = [name for name in dir(_load.load(pathlib.Path(sys.argv[1]))) if not name.startswith("_")]
# TensorFlow makes a function x and a function x_eager_fallback for each op x, and other names.
print("@@", *(name for name in made if f"{name}_eager_fallback" in made))
"""


def ops_of(library: pathlib.Path) -> set[str]:
    """The names of the ops that a library registers when it is loaded."""
    command = [sys.executable, "-c", LIST_OPS, str(library.resolve())]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
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
