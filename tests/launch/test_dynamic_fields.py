"""A run with fields without a vocabulary: trained on a cluster, evaluated and exported in one."""

import json
import shutil

import pytest
import tensorflow as tf

from launch.model_card import CARD_MARKDOWN
from tests.launch.test_recovery import KilledOnTheWay
from tests.launch.training_program import report_of, run_program


@pytest.fixture
def dynamic_dataset(small_dataset, tmp_path):
    """The data set, whose ids of users, items and images have no vocabulary."""
    directory = shutil.copytree(small_dataset, tmp_path / "dataset")
    schema = json.loads((directory / "schema.json").read_text())
    for field in schema["fields"]:
        if field.get("table", field["name"]) in ("user", "item", "image_id"):
            del field["vocabulary_size"]
            field["dynamic"] = True
    (directory / "schema.json").write_text(json.dumps(schema))
    return directory


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_what_a_cluster_has_trained_one_process_evaluates_and_exports(dynamic_dataset, tmp_path):
    run = tmp_path / "run"
    training = KilledOnTheWay(
        dynamic_dataset, run, "--cluster=2x2", "--dynamic_memory=64", "--segment_steps=4",
        "--full_checkpoint_every=4",
    )  # fmt: skip
    # Increments lie between, and the rows of the last checkpoint are in several.
    code, out, err = training.train([(22, "ps-1")])
    assert (code, err.count("start again")) == (0, 1), err
    assert "continuing at step " in out
    saved = tf.train.get_checkpoint_state(str(run / "checkpoints")).all_model_checkpoint_paths
    assert len(saved) == 6
    names = [name for path in saved for name, _ in tf.train.list_variables(path)]
    assert any(name.endswith("/increment_parent") for name in names)
    tables = report_of(run)["dynamic_tables"]
    assert tables.keys() >= {"table_user", "table_item"}
    rows = {name: [s["rows"] for s in table["servers"]] for name, table in tables.items()}
    assert all(len(per_server) == 2 and min(per_server) > 0 for per_server in rows.values())
    total = sum(map(sum, rows.values()))
    assert f"dynamic tables: {total:,} rows in {len(tables)} tables, " in out
    # The chief has validated with the rows on the servers; a process that reads the checkpoint
    # alone sees the same.
    validated = report_of(run)["last_validation"]
    page = run_program("report", f"--run={run}", "--split=validation", "--checkpoint=last")
    assert (page.returncode, page.stderr) == (0, "")
    metrics = json.loads((run / "evaluation-validation.json").read_text())["metrics"]["all"]
    assert metrics["log_loss"] == pytest.approx(validated["validation_log_loss"], abs=1e-6)
    text = (run / "report.html").read_text()
    assert (
        f'<tr><td class="text">table_user</td><td>1</td><td>{rows["table_user"][1]:,}</td>' in text
    )
    export = tmp_path / "export"
    # Fresh processes without this project's code score samples.
    done = run_program("export", f"--run={run}", f"--out={export}", "--checkpoint=last")
    assert (done.returncode, done.stderr) == (0, "")
    user = sum(rows["table_user"])
    assert f"table_user: {user:,} ids without a vocabulary, each with a row of " in done.stdout
    assert "checked in a fresh process" in done.stdout
    assert f"`table_user`: {user:,} ids" in (export / CARD_MARKDOWN).read_text()
