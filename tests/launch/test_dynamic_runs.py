"""Runs with dynamic tables that have rules: one process, a cluster, mutual learning, refusals."""

import json

import numpy as np
import pytest

from amstf.data import Samples
from amstf.layers import named_dynamic_embeddings
from launch.click_model import load_run
from launch.datasets.dynamic_ids import make_dynamic
from launch.run_directory import RunDirectory
from tests.launch.datasets.crossmedia_files import (
    random_images,
    random_lines,
    write_images,
    write_lines,
)
from tests.launch.training_program import report_of, run_program, train

RULES = ("--admission=after=2,filter_bytes=1048576", "--eviction=unseen_steps=20,small_norm=0.001")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Few impressions of each of many items, so that items die."""
    directory = tmp_path_factory.mktemp("dynamic") / "data"
    made = run_program(
        "prepare", "synthetic", "--users=60", "--items=600", "--impressions=4000",
        "--image_width=8", "--behaviours=3", "--num_shards=2", "--dynamic", f"--out={directory}",
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    return directory


def rows_of(run):
    """Table -> id -> weights, of the last checkpoint."""
    model, _, _ = load_run(RunDirectory(run), which="last")
    return {
        name: {
            int(row_id): values[: layer.width]
            for _, page in layer.table.pages()
            for row_id, values in zip(page.ids.numpy(), page.values.numpy(), strict=True)
        }
        for name, layer in named_dynamic_embeddings(model).items()
    }


def test_users_items_and_images_are_dynamic(dataset):
    schema = Samples.open(dataset).schema
    tables = {field.table_name for field in schema.fields if field.dynamic}
    assert tables == {"user", "item", "image_id"}
    assert schema["gender"].vocabulary_size == 2
    make_dynamic(dataset)  # Once more changes nothing.
    assert Samples.open(dataset).schema == schema


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_admits_and_evicts_as_one_process_does(dataset, tmp_path):
    flags = ("--segment_steps=17", "--validation=none", *RULES)
    here = train(dataset, tmp_path / "here", *flags, model="embedding_mlp")
    assert (here.returncode, here.stderr) == (0, "")
    there = train(
        dataset, tmp_path / "there", *flags, "--cluster=1x2", "--full_checkpoint_every=3",
        model="embedding_mlp",
    )  # fmt: skip
    assert (there.returncode, there.stderr) == (0, "")
    one, other = (rows_of(tmp_path / name) for name in ("here", "there"))
    assert {name: set(rows) for name, rows in one.items()} == {
        name: set(rows) for name, rows in other.items()
    }
    # One worker: its steps come one after another.
    for name, rows in one.items():
        for row_id, values in rows.items():
            np.testing.assert_allclose(values, other[name][row_id], atol=1e-5)
    for name, done in (("here", here), ("there", there)):
        tables = report_of(tmp_path / name)["dynamic_tables"]
        servers = [server for table in tables.values() for server in table["servers"]]
        evicted, refused = (
            sum(server[what] for server in servers) for what in ("rows_evicted", "ids_refused")
        )
        assert evicted > 100 and refused > 100
        assert f"{evicted:,} rows evicted, {refused:,} ids refused" in done.stdout
        assert all(server["filter_counters_used"] > 0 for server in servers)
        # Of the cluster's and of one process' tables alike: what lives was born and not evicted.
        assert sum(server["rows_admitted"] for server in servers) - evicted == sum(
            map(len, one.values())
        )
    page = run_program("report", f"--run={tmp_path / 'there'}")
    assert (page.returncode, page.stderr) == (0, "")
    server = report_of(tmp_path / "there")["dynamic_tables"]["table_item"]["servers"][0]
    cells = "".join(f"<td>{server[what]:,}</td>" for what in ("ids_refused", "rows_evicted"))
    assert cells in (tmp_path / "there" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_members_of_a_mutual_run_have_tables_of_their_own(dataset, tmp_path):
    run = tmp_path / "run"
    done = run_program(
        "mutual", "--models=lr,deepfm", f"--dataset={dataset}", f"--out={run}", "--cluster=1x2",
        "--epochs=1", "--batch_size=256", "--segment_steps=6", "--hidden=8", *RULES,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    report = report_of(run)
    tables = report["dynamic_tables"]
    rows = {
        name: sum(server["rows"] for server in table["servers"]) for name, table in tables.items()
    }
    # Three of lr, three of deepfm and perhaps three of its weights of ids.
    assert len(rows) >= 6 and all(count > 10 for count in rows.values())
    assert report["config"]["members"]["lr"]["admission"] == ["after=2", "filter_bytes=1048576"]
    saved = {name: rows_of(run / "members" / name) for name in ("lr", "deepfm")}
    counts = [len(of_table) for member in saved.values() for of_table in member.values()]
    assert sorted(counts) == sorted(rows.values())
    shared = set(saved["lr"]["table_user"]) & set(saved["deepfm"]["table_user"])
    of_lr, of_deepfm = (saved[name]["table_user"] for name in ("lr", "deepfm"))
    assert len(shared) > 10
    assert all(not np.array_equal(of_lr[user], of_deepfm[user]) for user in shared)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_crossmedia_has_tables_that_grow(tmp_path):
    images = random_images(40, 24)
    prefix = write_images(tmp_path / "imgs", images)
    samples = write_lines(tmp_path / "data.txt", random_lines(120, list(images)))
    data, run = tmp_path / "data", tmp_path / "run"
    made = run_program(
        "prepare", "crossmedia", f"--samples={samples}", f"--images={prefix}", f"--out={data}",
        "--dynamic", "--image_ids", "--num_shards=2",
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    done = run_program(
        "train", f"--dataset={data}", "--preset=crossmedia", "--epochs=1", f"--out={run}",
        "--cluster=1x2", "--eviction=least_recent=1000000", "--dynamic_memory=512",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    tables = report_of(run)["dynamic_tables"]
    # Each side's ids, and those of its images.
    assert len(tables) == sum(field.dynamic for field in Samples.open(data).schema.fields) >= 3
    for name, table in tables.items():
        assert sum(server["rows"] for server in table["servers"]) > 5, name
    assert json.loads((run / "config.json").read_text())["dynamic_memory"] == 512
    evaluated = run_program("evaluate", f"--run={run}")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")


def test_rules_without_dynamic_fields_are_one_line(small_dataset, tmp_path):
    done = train(small_dataset, tmp_path / "run", "--admission=after=3", model="lr")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --admission is about tables of dynamic fields, and the data set has none that the "
        "model sees; leave it out, or prepare the data set with --dynamic\n"
    )
    done = train(small_dataset, tmp_path / "run", "--eviction=unseen_days=3", model="lr")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: eviction has 'unseen_days=3'; wanted NAME=VALUE")
