import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_store_benchmark_runs(tmp_path):
    """Its numbers depend on the machine; what it says does not."""
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.store", "--quick", f"--out={out}"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    result = json.loads(lines[-1])
    assert json.loads(out.read_text()) == result
    for key in ("lookup_over_h5py", "lookup_over_memcpy", "lookup_over_h5py_float16"):
        assert result[key] > 0
    assert set(result["results"]) == {"float32", "float16", "open"}
    assert {"lookup", "h5py", "memcpy"} <= set(result["results"]["float32"])
    assert any(line.split()[:2] == ["float32", "lookup"] for line in lines)
