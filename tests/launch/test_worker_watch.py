"""A real training of which one worker is suspended: it is named, and what each has done is kept."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from tests.cluster import processes_with
from tests.launch.test_evaluator import scalars_of
from tests.launch.test_train import MARK, ROOT, SMALL, environment, report_of

HANGS = "warning: worker 1 has done no step for "
AGAIN = "worker 1 keeps up again: "


class Training:
    """launch.train on a cluster, and what it has printed so far."""

    def __init__(self, directory, *flags, **variables):
        self._files = [directory / "stdout", directory / "stderr"]
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "launch.train", *flags],
                cwd=ROOT,
                env=environment(**variables),
                stdout=out,
                stderr=err,
            )

    @property
    def out(self):
        return self._files[0].read_text()

    @property
    def err(self):
        return self._files[1].read_text()

    def wait_for(self, is_there, seconds):
        deadline = time.monotonic() + seconds
        while not is_there() and time.monotonic() < deadline:
            assert self.process.poll() is None, self.out + self.err
            time.sleep(0.2)
        return is_there()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_suspended_worker_is_named_until_it_keeps_up_again(small_dataset, tmp_path):
    run, mark = tmp_path / "run", uuid.uuid4().hex
    # One sample a step, so that segments are long.
    flags = [f"--dataset={small_dataset}", f"--out={run}", "--model=embedding_mlp", *SMALL]
    flags += ["--batch_size=1", "--epochs=1000", "--segment_steps=100000", "--validation=none"]
    training = Training(tmp_path, *flags, "--cluster=2x1", **{MARK: mark})
    try:
        assert training.wait_for(lambda: training.out.count("(workers") >= 2, 100), training.err
        worker = int((run / "logs" / "worker-1.pid").read_text())
        # Between two segments the chief would wait for it, and not know: then once more.
        for _ in range(4):
            os.kill(worker, signal.SIGSTOP)
            named = training.wait_for(lambda: HANGS in training.err, 25)
            os.kill(worker, signal.SIGCONT)
            if named:
                break
        assert training.wait_for(lambda: AGAIN in training.err, 60), training.out + training.err
        assert "worker 0 " not in training.err
        training.process.send_signal(signal.SIGINT)
        assert training.process.wait(60) == 130, training.err
    finally:
        training.process.kill()
        training.process.wait(20)
    assert not processes_with(MARK, mark)
    report = report_of(run)
    first, second = report["workers"]
    # Ctrl-C may meet a step of each that has counted in one place only.
    assert abs(first["steps"] + second["steps"] - report["steps"]) <= 2
    assert first["steps"] > second["steps"] > 0
    assert first["samples_per_second"] > second["samples_per_second"] > 0
    assert second["straggling_seconds"] > 0 and first["straggling_seconds"] == 0
    shown = {tag for tag, _ in scalars_of(run / "tensorboard")}
    assert {f"workers/{i}/samples_per_second" for i in range(2)} <= shown
