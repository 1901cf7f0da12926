"""Training as a person starts it: alone, on a cluster, interrupted, continued, with bad input."""

import csv
import json
import shutil
import subprocess
import sys
import uuid

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import Samples, set_image_store
from amstf.store import ImageStore, ImageStoreWriter
from launch.local_cluster import _on_free_ports
from tests.cluster import processes_with
from tests.launch.training_program import (
    MARK,
    PASS,
    ROOT,
    SMALL,
    environment,
    evaluate,
    interrupt_after,
    report_of,
    train,
)


@pytest.fixture(scope="module")
def local_run(small_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "dicm"
    done = train(small_dataset, run, "--epochs=2")
    assert done.returncode == 0, done.stderr
    return run, done


def test_a_run_leaves_what_its_help_promises(local_run):
    run, done = local_run
    assert done.stderr == ""
    assert "finished: " in done.stdout
    report = report_of(run)
    assert report["ended"] == "finished"
    assert report["steps"] == 2 * PASS
    assert report["impressions_trained"] == report["samples"]
    assert "each impression once a pass" in done.stdout
    assert report["images"]["images"]["ids_looked_up"] > 1000
    assert report["images"]["images"]["ids_missing"] == 0
    assert report["config"]["image_width"] == 24
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("events*"))
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    validated = [row for row in rows if row["validation_auc"]]
    assert [int(row["step"]) for row in validated] == [*range(13, 2 * PASS, 13), 2 * PASS]
    assert len(list((run / "checkpoints").glob("ckpt-*.index"))) == 3
    assert len(list((run / "best").glob("ckpt-*.index"))) == 1


def test_the_same_command_again_has_nothing_to_do_and_more_epochs_continue(
    small_dataset, local_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(local_run[0], run)
    again = train(small_dataset, run, "--epochs=2")
    assert again.returncode == 0, again.stderr
    assert report_of(run)["steps"] == 2 * PASS
    more = train(small_dataset, run, "--epochs=3")
    assert f"continuing at step {2 * PASS}" in more.stdout, more.stderr
    assert report_of(run)["steps"] == 3 * PASS


def test_another_configuration_does_not_continue_a_run(small_dataset, local_run):
    done = train(small_dataset, local_run[0], "--epochs=2", "--batch_size=65")
    assert done.returncode == 2
    assert "batch_size 64 (now 65)" in done.stderr
    assert "choose another --out" in done.stderr


def test_evaluation_beside_a_run_of_ids(small_dataset, local_run, tmp_path):
    ids = tmp_path / "ids"
    done = train(small_dataset, ids, model="embedding_mlp")
    assert done.returncode == 0, done.stderr
    assert report_of(ids)["images"] == {}
    table = evaluate(f"--run={ids},{local_run[0]}")
    assert (table.returncode, table.stderr) == (0, "")
    for text in ("test, all:", "test, new items:", "best reachable", "calibration", "\ndicm  "):
        assert text in table.stdout
    metrics = json.loads((local_run[0] / "evaluation-test.json").read_text())["metrics"]
    assert metrics["all"]["impressions"] == Samples.open(small_dataset).num_records("test")
    assert 0 < metrics["new items"]["impressions"] < metrics["all"]["impressions"]
    assert 0.3 < metrics["all"]["auc"] < 1


def test_early_stopping_says_so(small_dataset, tmp_path):
    # With a learning rate of zero no validation is better than the first.
    done = train(small_dataset, tmp_path / "r", "--learning_rate=0", "--patience=2", "--epochs=9")
    assert done.returncode == 0, done.stderr
    assert "stopped early" in done.stdout
    assert report_of(tmp_path / "r")["steps"] == 3 * 13


def test_ctrl_c_keeps_a_checkpoint_from_which_the_run_continues(small_dataset, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "launch.train", f"--dataset={small_dataset}"]
    command += [f"--out={run}", "--model=dicm", *SMALL, "--epochs=40"]
    code, printed = interrupt_after("step", command)
    assert code == 130, printed
    assert "checkpoint kept" in printed and printed.endswith("interrupted\n")
    report = report_of(run)
    assert report["ended"] == "interrupted" and 0 < report["steps"] < 40 * PASS
    done = train(small_dataset, run, "--epochs=1", "--epochs=3")
    assert f"continuing at step {report['steps']}" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_cluster_trains_the_same_model_quietly(small_dataset, local_run, tmp_path):
    run = tmp_path / "cluster"
    done = train(small_dataset, run, "--epochs=2", "--cluster=2x2", **{MARK: str(run)})
    assert (done.returncode, done.stderr) == (0, "")
    assert not processes_with(MARK, str(run))
    report = report_of(run)
    assert report["cluster"] == "2 workers, 2 servers"
    assert report["steps"] == 2 * PASS
    assert sum(worker["steps"] for worker in report["workers"]) == 2 * PASS
    served = report["image_servers"]
    assert set(served) == {"ps-0", "ps-1", "sum"}
    assert all(served[name]["ids_looked_up"] > 500 for name in ("ps-0", "ps-1"))
    assert served["sum"]["images"] == 150 and served["sum"]["requests"] == 2 * 2 * PASS
    assert served["sum"]["open_requests"] == 0
    assert counters_in_tensorboard(run) >= {"servers/ps-1/requests", "servers/sum/ids_embedded"}
    # A run of a cluster continues in one process, and both learn about as well.
    alone = train(small_dataset, run, "--epochs=3")
    assert f"continuing at step {2 * PASS}" in alone.stdout, alone.stderr
    local = report_of(local_run[0])["best_validation"]["validation_log_loss"]
    assert abs(report["best_validation"]["validation_log_loss"] - local) < 0.05


def counters_in_tensorboard(run):
    (events,) = (run / "tensorboard").glob("events*")
    return {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
        if value.tag.startswith("servers/")
    }


@pytest.mark.slow
def test_a_cluster_trains_in_synchronous_rounds(small_dataset, tmp_path):
    run = tmp_path / "sync"
    flags = ["--merge=sync", "--sync_every=2", "--wire_dtype=bfloat16", "--image_servers=1"]
    # 56 steps are whole rounds: of a last step by itself the other worker's timeout is waited for.
    done = train(small_dataset, run, "--batch_size=55", "--cluster=2x2", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    report = report_of(run)
    assert report["config"]["ams"]["merge"] == "sync"
    assert report["steps"] == 56
    rounds = report["image_servers"]["rounds"]
    assert rounds["rounds"] == 28 and rounds["entered"] == 56 and rounds["shrunk"] == 0
    assert report["image_servers"]["ps-1"]["merged"] == 56
    assert "ps-0" not in report["image_servers"]


@pytest.mark.slow
def test_ctrl_c_on_a_cluster_leaves_no_process(small_dataset, tmp_path):
    run, mark = tmp_path / "run", uuid.uuid4().hex
    command = [sys.executable, "-m", "launch.train", f"--dataset={small_dataset}"]
    command += [f"--out={run}", "--model=dicm", *SMALL, "--epochs=300", "--cluster=1x2"]
    code, printed = interrupt_after("step", command, **{MARK: mark})
    assert code == 130, printed
    assert "checkpoint kept" in printed
    assert list((run / "checkpoints").glob("ckpt-*.index"))
    assert not processes_with(MARK, mark)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_same_command_in_every_role_of_tf_config(small_dataset, tmp_path):
    run = tmp_path / "run"
    cluster = _on_free_ports(1, 1)
    command = [sys.executable, "-m", "launch.train", f"--dataset={small_dataset}"]
    command += [f"--out={run}", "--model=dicm", *SMALL]
    tasks = {}

    def start(role):
        config = json.dumps({"cluster": cluster, "task": {"type": role, "index": 0}})
        tasks[role] = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(TF_CONFIG=config, no_grpc_proxy="127.0.0.1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    try:
        start("worker")
        start("chief")
        missing = tasks["chief"].stderr.readline()
        assert f"ps 0 at {cluster['ps'][0]} (unreachable for 12 s: connection refused)" in missing
        start("ps")
        out, err = tasks["chief"].communicate(timeout=200)
        assert (tasks["chief"].returncode, err) == (0, ""), out
        assert report_of(run)["cluster"] == "1 workers, 1 servers"
        # Nobody ends them: they leave with the chief.
        for role in ("worker", "ps"):
            out, _ = tasks[role].communicate(timeout=30)
            assert tasks[role].returncode == 0
            assert out.splitlines()[-1] == "the chief is done"
    finally:
        for task in tasks.values():
            task.kill()
            task.wait(20)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cluster=2by2"], "--cluster: got '2by2', wanted WORKERSxSERVERS"),
        (["--batch_size=0"], "--batch_size"),
        (["--tower=64,x"], "--tower: got '64,x', wanted widths such as 128,64"),
        (["--aggregator=median"], "--aggregator"),
        (["--dataset=/nowhere"], "/nowhere"),
    ],
)
def test_wrong_flags_are_one_line(small_dataset, tmp_path, flags, message):
    done = train(small_dataset, tmp_path / "run", *flags)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("tf_config", "message"),
    [
        ("{not json", "not JSON"),
        (
            '{"cluster": {"worker": ["h:1"], "ps": ["h:2"]}, "task": {"type": "ps", "index": 0}}',
            "chief",
        ),
    ],
)
def test_wrong_tf_config_is_one_line(small_dataset, tmp_path, tf_config, message):
    done = train(small_dataset, tmp_path / "run", TF_CONFIG=tf_config)
    assert done.returncode == 2
    assert done.stderr.startswith("error: TF_CONFIG") and message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def dataset_copy(small_dataset, tmp_path):
    """A data set that a test may damage, and a function that replaces its images."""
    copy = tmp_path / "data"
    shutil.copytree(small_dataset, copy)

    def replace_images(ids, features):
        path = copy / "other.h5"
        with ImageStoreWriter(path, features.shape[1]) as writer:
            writer.write(ids, features)
        set_image_store(copy, path)

    return copy, replace_images


def test_images_that_the_store_lacks_are_named_or_counted(dataset_copy, tmp_path):
    dataset, replace_images = dataset_copy
    store = ImageStore.open(dataset / "images.h5")
    replace_images(store.ids[5:], store.read(store.ids[5:]))
    done = train(dataset, tmp_path / "run")
    assert done.returncode == 2
    assert "image ids are not in the image store" in done.stderr
    assert any(f" {lost}" in done.stderr for lost in store.ids[:5])
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    # Nothing was trained yet, so the cure may go to the same place.
    done = train(dataset, tmp_path / "run", "--missing=zeros")
    assert done.returncode == 0, done.stderr
    missing = report_of(tmp_path / "run")["images"]["images"]["ids_missing"]
    assert missing > 0 and f"{missing:,} missing" in done.stdout


def test_features_of_another_width_are_refused(dataset_copy, local_run):
    dataset, replace_images = dataset_copy
    store = ImageStore.open(dataset / "images.h5")
    replace_images(store.ids, store.read(store.ids)[:, :20])
    done = evaluate(f"--run={local_run[0]}", f"--dataset={dataset}")
    assert done.returncode == 2
    assert "takes 24 features an image" in done.stderr and "holds 20" in done.stderr


def test_a_damaged_record_is_named(dataset_copy, tmp_path):
    dataset, _ = dataset_copy
    path = next(dataset.glob("train-00002*.tfrecord"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    done = train(dataset, tmp_path / "run")
    assert done.returncode == 2
    assert f"error: {path}: record " in done.stderr and " at byte " in done.stderr
    assert done.stderr.count("\n") == 1


def test_damaged_offsets_of_records_are_named(dataset_copy, tmp_path):
    dataset, _ = dataset_copy
    path = next(dataset.glob("train-00002*.offsets"))
    offsets = np.fromfile(path, "<i8")
    offsets[1:-1] += 1
    offsets.tofile(path)
    done = train(dataset, tmp_path / "run")
    assert done.returncode == 2
    assert f"error: {path} does not say where the records of" in done.stderr
    assert done.stderr.count("\n") == 1
    path.unlink()
    assert train(dataset, tmp_path / "run").returncode == 0
