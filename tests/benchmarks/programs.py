"""Runs a benchmark as a person does."""

import json
import os
import subprocess
import sys
from typing import Any


def run_quickly(name: str, *arguments: str, timeout: float = 500) -> tuple[dict[str, Any], str]:
    """Runs `python -m benchmarks.NAME --quick` and checks that it ends well and quietly.

    Returns:
        The JSON object of its last line, and all that it printed.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout
