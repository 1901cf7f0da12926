"""The evaluator as a process beside a training, fed by hand and by a cluster."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
import tensorflow as tf

from amstf.errors import ConfigError
from launch import evaluation_log
from launch.evaluation import Metrics
from launch.evaluator import Evaluator
from launch.run_directory import RunDirectory
from launch.step_logger import History
from tests.cluster import processes_with
from tests.exports import write_dataset
from tests.launch.handmade_run import FLAGS, HandmadeRun

ROOT = pathlib.Path(__file__).parent.parent.parent
MARK = "AMSTF_TEST_EVALUATOR"
TF_CONFIG = json.dumps(
    {
        "cluster": {"chief": ["h:1"], "worker": ["h:2"], "ps": ["h:3"]},
        "task": {"type": "evaluator", "index": 0},
    }
)
DEADLINE = 100  # Seconds for what takes 5 on a quiet machine.


def environment(**more):
    own = ("TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL", "PYTHONWARNINGS")
    return {**{name: v for name, v in os.environ.items() if name not in own}, **more}


def start(module, *flags, **variables):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", module, *flags],
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module, *flags, **variables):
    process = start(module, *flags, **variables)
    try:
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_for_step(path, step, process):
    deadline = time.monotonic() + DEADLINE
    while step not in [row["step"] for row in evaluation_log.read(path)]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"step {step} was not evaluated"
        time.sleep(0.1)


def scalars_of(directory):
    found = {}
    for path in directory.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                found[value.tag, event.step] = float(tensor)
    return found


@pytest.fixture
def follow(small_dataset, tmp_path):
    """A run made by hand, and a function that starts an evaluator of it."""
    made = HandmadeRun(tmp_path / "run", small_dataset)
    started = []

    def start_evaluator(*flags):
        started.append(start("launch.train", *made.flags, *flags, TF_CONFIG=TF_CONFIG))
        return started[-1]

    yield made, start_evaluator
    for process in started:
        process.kill()
        process.communicate()


def test_it_follows_a_run_over_restarts_to_its_end(follow):
    made, start_evaluator = follow
    directory = made.directory
    made.write_report(epochs=1)  # Of a training before this one: it ends nobody.
    evaluator = start_evaluator()
    made.begin()
    made.save(10)
    made.list_checkpoints(10)
    wait_for_step(directory.evaluations, 10, evaluator)
    made.save(12)
    made.list_checkpoints(10, 12)
    made.write_report("interrupted")
    out, err = evaluator.communicate(timeout=DEADLINE)
    assert (evaluator.returncode, err) == (130, ""), out
    assert [row["step"] for row in evaluation_log.read(directory.evaluations)] == [10, 12]
    # The chief validates by itself, so these are its own.
    assert not directory.best.exists() and not directory.history.exists()

    # That the training before was interrupted does not end it either.
    evaluator = start_evaluator("--validation=evaluator")
    for step, cut_off in ((20, ".data-00000-of-00001"), (25, ".index")):
        path = pathlib.Path(made.save(step) + cut_off)
        path.write_bytes(path.read_bytes()[:100])
    made.save(30)
    made.list_checkpoints(12, 15, 20, 25, 30)  # There is no 15 any more.
    wait_for_step(directory.evaluations, 30, evaluator)
    evaluator.terminate()
    out, err = evaluator.communicate(timeout=DEADLINE)
    assert evaluator.returncode == 143 and "step 12:" not in out
    gone, cut, cut_too, last = err.splitlines()
    assert gone == f"warning: {made.path_of(15)} is not there, or not any more: skipped"
    assert cut.startswith(f"warning: {made.path_of(20)} is not whole (")
    assert cut_too.startswith(f"warning: {made.path_of(25)} is not whole (")
    assert last == "terminated"

    # It comes too late: the chief has gone.
    made.save(40)
    made.list_checkpoints(30, 40)
    made.write_report()
    evaluator = start_evaluator("--validation=evaluator")
    out, err = evaluator.communicate(timeout=DEADLINE)
    assert (evaluator.returncode, err) == (0, ""), out
    check_what_it_left(directory)


def check_what_it_left(directory):
    rows = evaluation_log.read(directory.evaluations)
    assert [row["step"] for row in rows] == [10, 12, 30, 40]
    shown = scalars_of(directory.tensorboard / "evaluator")
    for row in rows:
        for name in ("auc", "gauc", "log_loss", "calibration"):
            assert shown[f"validation/{name}", row["step"]] == pytest.approx(row[name], abs=1e-6)
    assert History(directory.history).column("validation_calibration")[0] == [10, 12, 30, 40]
    report = json.loads(directory.report.read_text())
    best = max(rows, key=lambda row: row["auc"])
    assert report["best_validation"]["validation_auc"] == pytest.approx(best["auc"])
    assert report["last_validation"]["step"] == 40

    flags = (f"--run={directory.path}", "--split=validation", "--checkpoint=last")
    code, _, err = run("launch.evaluate", *flags)
    assert code == 0, err
    evaluated = json.loads((directory.path / "evaluation-validation.json").read_text())
    for name, value in evaluated["metrics"]["all"].items():
        assert rows[-1][name] == pytest.approx(value, rel=1e-7), name


def test_early_stopping_through_the_evaluations(small_dataset, tmp_path):
    out = tmp_path / "run"
    flags = [f"--dataset={small_dataset}", f"--out={out}", *FLAGS[:-1], "--validation=evaluator"]
    code, printed, err = run("launch.train", *flags, "--epochs=1")
    assert (code, err) == (0, ""), printed
    directory = RunDirectory(out)
    report = json.loads(directory.report.read_text())
    assert report["best_validation"] is None and report["validation"] == "evaluator"
    for step, auc in ((13, 0.7), (26, 0.6), (39, 0.65)):
        metrics = Metrics(9, 4, auc, float("nan"), 0.5, 1.1, 3, 0)
        evaluation_log.add(directory.evaluations, step, metrics)
    code, printed, err = run("launch.train", *flags, "--epochs=9", "--patience=2")
    assert (code, err) == (0, ""), printed
    assert "stopped early" in printed
    stopped = json.loads(directory.report.read_text())
    assert stopped["steps"] == report["steps"]
    assert stopped["best_validation"]["step"] == 13
    assert History(directory.history).column("validation_calibration") == (
        [13, 26, 39],
        [1.1, 1.1, 1.1],
    )


def test_patience_without_validations_is_refused(small_dataset, tmp_path):
    flags = [f"--dataset={small_dataset}", f"--out={tmp_path}", *FLAGS]
    code, _, err = run("launch.train", *flags, "--validation=none", "--patience=2")
    assert code == 2
    assert err.startswith("error: --patience needs validations") and err.count("\n") == 1


def test_a_data_set_without_validation_is_refused(tmp_path):
    samples = write_dataset(tmp_path / "data")
    assert "validation" not in samples.splits
    made = HandmadeRun(tmp_path / "run", samples.directory)
    with pytest.raises(ConfigError, match="no samples in a split 'validation'"):
        Evaluator(made.directory, made.config, in_place_of_chief=True)


def test_a_row_without_a_metric_is_read_without_it(tmp_path):
    path = tmp_path / "evaluations.csv"
    evaluation_log.add(path, 5, Metrics(9, 0, float("nan"), float("nan"), 0.5, 1.1, 0, 3))
    (row,) = evaluation_log.read(path)
    assert "auc" not in row and row["log_loss"] == 0.5
    assert evaluation_log.unseen(path, History(tmp_path / "history.csv")) == []


def test_a_history_of_an_earlier_version_is_continued(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,seconds,validation_auc\n13,2.5,0.7\n")
    history = History(path)
    history.add(step=1_234_567, seconds=3, validation_auc=0.8, validation_calibration=1.1)
    assert History(path).column("validation_auc") == ([13, 1_234_567], [0.7, 0.8])


@pytest.mark.slow
def test_a_cluster_with_an_evaluator_that_is_killed(small_dataset, tmp_path):
    out, mark = tmp_path / "run", uuid.uuid4().hex
    flags = [f"--dataset={small_dataset}", f"--out={out}", *FLAGS, "--cluster=1x1"]
    process = start("launch.train", *flags, "--validation=evaluator", **{MARK: mark})
    watchdog = threading.Timer(200, process.kill)
    watchdog.start()
    pid_path, printed = out / "logs" / "evaluator-0.pid", []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("embedding_mlp on a cluster"):
            os.kill(int(pid_path.read_text()), signal.SIGKILL)
    err = process.stderr.read()
    code = process.wait()
    watchdog.cancel()
    assert code == 0, (printed, err)
    assert err == (
        "warning: the evaluator died (killed by SIGKILL), log: "
        f"{out}/logs/evaluator-0.log; it starts again, for what is left\n"
    )
    assert not processes_with(MARK, mark) and not pid_path.exists()
    report = json.loads((out / "report.json").read_text())
    with (out / "evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert report["ended"] == "finished" and report["steps"] == int(rows[-1]["step"]) > 0
    assert report["last_validation"]["step"] == report["steps"]
    best = report["best_validation"]
    assert printed[-1].startswith(f"evaluator: best validation: AUC {best['validation_auc']:.4f}, ")
    assert list((out / "best").glob(f"ckpt-{best['step']:.0f}.index"))
