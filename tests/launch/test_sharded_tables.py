"""A run whose tables are split goes on anywhere: on more servers, on fewer, in one process."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from launch.run_rows import read_rows
from tests.cluster import run_on_cluster
from tests.launch.test_train import PASS, evaluate, report_of, train

CHIEF = pathlib.Path(__file__).with_name("sharded_tables_chief.py")
# Splits the tables of users, items and image ids; the next largest, of brands, is of 2,448 bytes.
SPLIT = ("--min_shard_bytes=2500",)


def tensors_of(checkpoint):
    """All numbers in a checkpoint by name, moments of the optimizer included."""
    reader = tf.train.load_checkpoint(str(checkpoint))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("model/", "optimizer/"))
    }


def losses_of(run):
    """Validation log loss by step."""
    rows = read_rows(run / "history.csv")[1]
    name = "validation_log_loss"
    return {int(row["step"]): row[name] for row in rows if name in row}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    of_model = sum(name.startswith("model/") for name in one)
    of_optimizer = sum(
        name.startswith("optimizer/_variables/") and values.any() for name, values in one.items()
    )
    assert of_optimizer >= 2 * of_model > 20, sorted(one)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_run_with_split_tables_goes_on_with_any_number_of_servers(small_dataset, tmp_path):
    run = tmp_path / "run"
    first = train(small_dataset, run, *SPLIT, "--cluster=2x2")
    assert (first.returncode, first.stderr) == (0, "")
    assert ", 3 tables split over the servers\n" in first.stdout
    assert report_of(run)["steps"] == PASS
    # Later ones replace it in the run.
    shutil.copytree(run / "checkpoints", tmp_path / "first")
    sharded = tmp_path / "first" / f"ckpt-{PASS}"

    # The chief has validated with the tables put together; a process that reads the checkpoint
    # alone sees the same.
    validated = report_of(run)["last_validation"]
    alone = evaluate(f"--run={run}", "--split=validation", "--checkpoint=last")
    assert (alone.returncode, alone.stderr) == (0, "")
    metrics = json.loads((run / "evaluation-validation.json").read_text())["metrics"]["all"]
    assert metrics["log_loss"] == pytest.approx(validated["validation_log_loss"], abs=1e-6)

    flags = ("--epochs=2", "--cluster=1x3", "--validation=evaluator")
    more_servers = train(small_dataset, run, *SPLIT, *flags)
    assert (more_servers.returncode, more_servers.stderr) == (0, "")
    assert f", 3 tables split over the servers\ncontinuing at step {PASS}\n" in more_servers.stdout
    one_process = train(small_dataset, run, "--epochs=3")
    assert (one_process.returncode, one_process.stderr) == (0, "")
    assert f"continuing at step {2 * PASS}\n" in one_process.stdout
    assert "tables split" not in one_process.stdout
    assert report_of(run)["steps"] == 3 * PASS
    losses = losses_of(run)
    assert losses[3 * PASS] < losses[PASS] - 0.02
    for before, after in ((PASS, PASS + 3), (2 * PASS, 2 * PASS + 6)):  # The next validation.
        assert abs(losses[after] - losses[before]) < 0.02

    # What was read is what was written, moments of Adam included, and what is split differs.
    whole = run / "checkpoints" / f"ckpt-{3 * PASS}"
    before = {path: tensors_of(path) for path in (sharded, whole)}
    after = {
        (servers, path): tmp_path / f"{servers}-{path.name}"
        for servers in (1, 3)
        for path in (sharded, whole)
    }
    for servers, shards in ((1, 1), (3, 3)):
        paths = [str(p) for path in before for p in (path, after[servers, path])]
        chief = run_on_cluster(
            CHIEF, workers=1, servers=servers, arguments=(str(run), "2500", *paths)
        )
        assert chief.returncode == 0, chief
        assert sorted(json.loads(chief.stdout))[-3:] == [shards] * 3
    for (_, path), written in after.items():
        assert_equal(before[path], tensors_of(written))
