"""A run with fields without a vocabulary: trained on a cluster, evaluated in one process."""

import json
import shutil

import pytest

from tests.launch.test_train import evaluate, report_of, train


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
def test_what_a_cluster_has_trained_one_process_evaluates(dynamic_dataset, tmp_path):
    run = tmp_path / "run"
    first = train(dynamic_dataset, run, "--cluster=2x2")
    assert (first.returncode, first.stderr) == (0, "")
    # The chief has validated with the rows on the servers; a process that reads the checkpoint
    # alone sees the same.
    validated = report_of(run)["last_validation"]
    alone = evaluate(f"--run={run}", "--split=validation", "--checkpoint=last")
    assert (alone.returncode, alone.stderr) == (0, "")
    metrics = json.loads((run / "evaluation-validation.json").read_text())["metrics"]["all"]
    assert metrics["log_loss"] == pytest.approx(validated["validation_log_loss"], abs=1e-6)
