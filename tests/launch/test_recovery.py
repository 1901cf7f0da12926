"""Training goes on whatever is killed (`kill -9`), and ends as if nothing had happened."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
import tensorflow as tf

from amstf.data import Samples
from tests.cluster import processes_with
from tests.launch.training_program import MARK, PASS, ROOT, SMALL, environment, report_of, train


class KilledOnTheWay:
    """A training on a local cluster, with `kill -9` at steps of it."""

    def __init__(self, dataset, run, *flags):
        self.run, self.mark = run, uuid.uuid4().hex
        self.command = [sys.executable, "-u", "-m", "launch.train", f"--dataset={dataset}"]
        self.command += [f"--out={run}", "--model=dicm", *SMALL, *flags]

    def pid_of(self, task):
        return int((self.run / "logs" / f"{task}.pid").read_text())

    def step(self):
        """The last step that is known; a restart begins at an earlier one."""
        rows = (self.run / "history.csv").read_text().splitlines()
        return int(rows[-1].split(",")[0]) if len(rows) > 1 else 0

    def train(self, kills=()):
        """Kills at each (step, task), "launcher" with all that it has started; waits for the end.

        Returns:
            Exit code, stdout, stderr.
        """
        with subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=environment(**{MARK: self.mark}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as launcher:
            watchdog = threading.Timer(400, launcher.kill)
            watchdog.start()
            for step, task in kills:
                while launcher.poll() is None and (
                    not (self.run / "history.csv").exists() or self.step() < step
                ):
                    time.sleep(0.05)
                os.kill(launcher.pid if task == "launcher" else self.pid_of(task), signal.SIGKILL)
            out, err = launcher.communicate()
            watchdog.cancel()
        return launcher.returncode, out, err


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_whatever_is_killed_the_run_ends_as_an_undisturbed_one(small_dataset, tmp_path):
    run = tmp_path / "run"
    killed = KilledOnTheWay(small_dataset, run, "--epochs=9", "--cluster=2x2", "--segment_steps=13")
    kills = [(30, "worker-1"), (100, "chief-0"), (200, "ps-1"), (300, "launcher")]
    code, out, err = killed.train(kills)
    assert code == -signal.SIGKILL
    logs = run / "logs"
    # How long to wait depends on how long the last life was, and that on the machine.
    err = re.sub(r"again in \d+ s", "again in N s", err)
    lines = [line for line in err.splitlines() if not line.startswith("error: the connection to")]
    assert lines == [
        f"warning: worker 1 died (killed by SIGKILL), log: {logs / 'worker-1.log'}; it starts "
        "again in N s (restart 1 of 10)",
        "error: the chief was killed by SIGKILL",
        "chief, servers and workers start again in N s (restart 1 of 10)",
        f"error: ps 1 died (killed by SIGKILL), log: {logs / 'ps-1.log'}; the chief cannot go on "
        "without its variables",
        "chief, servers and workers start again in N s (restart 2 of 10)",
    ]
    # What was lost with chief or server is at most one segment.
    resumed = [int(step) for step in re.findall(r"^continuing at step (\d+)$", out, re.MULTILINE)]
    assert len(resumed) == 2
    for step, (lost_at, _) in zip(resumed, kills[1:], strict=False):
        assert step % 13 == 0 or step % PASS == 0
        assert step >= lost_at - 13
    deadline = time.monotonic() + 20
    while processes_with(MARK, killed.mark):
        assert time.monotonic() < deadline, "something outlived its launcher"
        time.sleep(0.1)

    # All at once; the same command goes on, with a checkpoint that was cut off, on another cluster.
    newest = tf.train.latest_checkpoint(str(run / "checkpoints"))
    data = pathlib.Path(next((run / "checkpoints").glob(f"{pathlib.Path(newest).name}.data*")))
    data.write_bytes(data.read_bytes()[:-100])
    killed.command[killed.command.index("--cluster=2x2")] = "--cluster=1x1"
    code, out, err = killed.train()
    assert code == 0, err
    assert err.startswith(f"warning: {newest} is not whole (") and err.count("\n") == 1
    (resumed,) = re.findall(r"^continuing at step (\d+)$", out, re.MULTILINE)
    assert int(resumed) < int(newest.rpartition("-")[2])
    report = report_of(run)
    assert report["ended"] == "finished" and report["steps"] == 9 * PASS
    # Only the step of the worker that died may count twice.
    assert 0 <= report["impressions_trained"] - report["samples"] <= 64
    assert report["samples"] == 9 * Samples.open(small_dataset).num_records("train")
    undisturbed = train(small_dataset, tmp_path / "undisturbed", "--epochs=9")
    assert "each impression once a pass" in undisturbed.stdout, undisturbed.stderr
    loss = [
        report_of(one)["best_validation"]["validation_log_loss"]
        for one in (run, tmp_path / "undisturbed")
    ]
    assert abs(loss[0] - loss[1]) < 0.05
    assert not processes_with(MARK, killed.mark)
