"""launch.train as a program, for the tests of training and of recovery."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).parent.parent.parent
MARK = "AMSTF_TEST_TRAIN"
PASS = 49  # Steps of one pass over the small data set, in four segments of up to 13.
SMALL = ("--batch_size=64", "--tower=16,4", "--hidden=16", "--epochs=1")


def environment(**more):
    own = ("TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, **more}


def train(dataset, out, *flags, model="dicm", **variables):
    command = [sys.executable, "-m", "launch.train", f"--dataset={dataset}", f"--out={out}"]
    return subprocess.run(
        [*command, f"--model={model}", *SMALL, *flags],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def evaluate(*flags):
    return run_program("evaluate", *flags)


def run_program(name, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *map(str, flags)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def report_of(run):
    return json.loads((run / "report.json").read_text())


def interrupt_after(line_start, command, **variables):
    """Starts a program in a session of its own and interrupts its group at an output line."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(150, process.kill)
    watchdog.start()
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith(line_start):
            os.killpg(process.pid, signal.SIGINT)
            line_start = "never again"
    code = process.wait()
    watchdog.cancel()
    return code, "".join(printed)
