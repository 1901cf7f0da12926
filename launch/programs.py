"""Programs of `launch` as a person runs them, for what needs several."""

import subprocess
import sys

from amstf.errors import AmstfError
from launch import program


def run(*command: str) -> None:
    """Runs a program of `launch`; what it says is shown only if it fails.

    Args:
        *command: Its module and its flags.

    Raises:
        AmstfError: With all that it said, if it fails.
        KeyboardInterrupt: If it was interrupted.
    """
    print("$ python -m " + " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    if done.returncode == program.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode:
        raise AmstfError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
