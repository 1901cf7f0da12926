"""Weights of a new run that are another run's: which, where, and what does not fit."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from amstf.errors import ConfigError
from amstf.layers import named_dynamic_embeddings
from amstf.schema import Field, Schema
from launch import warm_start
from launch.click_model import make_model, open_stores
from launch.run_directory import RunDirectory
from launch.training import Training
from tests.exports import write_dataset
from tests.helpers import CLICK_SCHEMA
from tests.launch.test_click_model import CONFIG
from tests.launch.training_program import report_of, train
from tests.models.test_dynamic_fields import dynamic

FIELDS = CLICK_SCHEMA.fields
MORE_IDS = Schema(
    tuple(dataclasses.replace(f, vocabulary_size=25) if f.name == "user" else f for f in FIELDS)
)
MORE_FIELDS = Schema((Field("brand", "sparse", side="ad", vocabulary_size=3), *FIELDS))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("warm_start") / "data")


def config(samples, **changes):
    resolved = {"images": "", "warm_start_mode": ""}  # Of another model must not stay.
    changes = {"model": "dicm", "dataset": str(samples.directory), **resolved, **changes}
    return dataclasses.replace(CONFIG, **changes)


def a_run(path, samples, value, **changes):
    """A run whose weights are all one number."""
    run, asked = RunDirectory(path), config(samples, **changes)
    run.begin(asked)
    samples.schema.save(path)
    model = make_model(asked, samples.schema, open_stores(samples))
    model.set_weights([np.full(w.shape, value) for w in model.get_weights()])
    tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model), str(run.checkpoints), max_to_keep=1
    ).save(7)
    return str(path)


def started(samples, schema=CLICK_SCHEMA, **changes):
    """Names of the weights that were read, and what was said."""
    asked = config(samples, **changes)
    model = make_model(asked, schema, open_stores(samples))
    before = model.get_weights()
    said = warm_start.apply(model, schema, asked)
    changed = {}
    for weight, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        name = weight.name.partition("/")[2] if weight.name.startswith("dicm") else weight.name
        changed[name] = not np.array_equal(old, new)
        assert not changed[name] or (new == 0.5).all()
    assert said.loaded == sum(
        new.size
        for new, is_new in zip(model.get_weights(), changed.values(), strict=True)
        if is_new
    )
    assert said.total == model.count_params()
    return changed, str(said)


def test_partial_reads_all_but_what_belongs_to_ids(samples, tmp_path):
    source = a_run(tmp_path / "old", samples, 0.5)
    changed, said = started(samples, MORE_IDS, warm_start=source)
    assert {name for name, read in changed.items() if not read} == {
        f"id_embedding/table_{table}/embeddings:0" for table in ("user", "item", "words")
    }
    assert said.startswith(f"warm start (partial) from {source}/checkpoints/ckpt-7: ")
    # DIN's attention belongs to no id, LR's weights do.
    din = a_run(tmp_path / "din", samples, 0.5, model="din", images="both")
    changed, _ = started(samples, MORE_IDS, model="din", images="both", warm_start=din)
    assert sum("id_embedding/attention_0" in name for name in changed) == 7
    assert sum(not read for read in changed.values()) == 3
    lr = a_run(tmp_path / "lr", samples, 0.5, model="lr", images="both")
    changed, _ = started(samples, model="lr", images="both", warm_start=lr)
    assert sum(not read for read in changed.values()) == 3
    # E may be trained by a model of another kind.
    changed, said = started(samples, MORE_FIELDS, warm_start=lr, warm_start_mode="images")
    names = {name for name, read in changed.items() if read}
    assert len(names) == 6 and all(name.startswith(("dense", "p_re_lu")) for name in names)


def test_full_reads_all(samples, tmp_path):
    source = a_run(tmp_path / "old", samples, 0.5)
    changed, said = started(samples, warm_start=source, warm_start_mode="full")
    assert all(changed.values()) and "warm start (full)" in said
    nothing = config(samples, warm_start=source, warm_start_mode="none")
    assert nothing.warm_start == "" and nothing == config(samples)
    assert warm_start.apply(None, CLICK_SCHEMA, nothing) is None


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({"model": "embedding_mlp"}, {}),
        ({"model": "din"}, {"model": "din", "images": "both"}),
        ({"aggregator": "mean"}, {"aggregator": "attentive_mean"}),
    ],
)
def test_extend_begins_with_the_predictions_of_a_smaller_model(samples, tmp_path, there, here):
    run = RunDirectory(tmp_path / "old")
    asked = config(samples, **there)
    run.begin(asked)
    samples.schema.save(run.path)
    smaller = make_model(asked, samples.schema, open_stores(samples))
    checkpoint = tf.train.Checkpoint(model=smaller)
    tf.train.CheckpointManager(checkpoint, str(run.checkpoints), max_to_keep=1).save(7)
    asked = config(samples, warm_start=str(run.path), warm_start_mode="extend", **here)
    model = make_model(asked, samples.schema, open_stores(samples))
    batch, _ = next(iter(samples.dataset("test", 8)))
    assert np.abs(model(batch) - smaller(batch)).max() > 1e-3
    said = warm_start.apply(model, samples.schema, asked)
    np.testing.assert_allclose(model(batch), smaller(batch), rtol=1e-5)
    # Occurrences of ids are those of the new data, counted or not.
    assert 0 < said.loaded <= smaller.count_params() < said.total == model.count_params()
    # What is new is learnt from the first step on.
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(batch))
    if model.aggregator is not None and "aggregator" in here:
        gradient = tape.gradient(loss, model.aggregator.trainable_weights)
        assert max(np.abs(of_one).max() for of_one in gradient if of_one is not None) > 0
    else:
        gradient = tape.gradient(loss, model.mlp.kernels[0])
        new_rows = gradient[smaller.mlp.kernels[0].shape[0] :]
        assert len(new_rows) and np.abs(new_rows).max() > 0


@pytest.mark.parametrize(
    ("schema", "changes", "message"),
    [
        (CLICK_SCHEMA, {"tower": (5, 3)}, r"dense.*/kernel:0 is 5x4 there and 5x5 here; .*images"),
        (CLICK_SCHEMA, {"aggregator": "attentive"}, r"kernel:0 is not there and \S+ here"),
        (MORE_FIELDS, {}, r"other fields than that run \(more: brand\)"),
        (
            MORE_IDS,
            {"warm_start_mode": "full"},
            r"other ids and fields .*differing: user\); .*or p",
        ),
        (CLICK_SCHEMA, {"tower": (5, 3), "warm_start_mode": "images"}, "is 5x4 there and 5x5 here"),
        (CLICK_SCHEMA, {"model": "din", "warm_start_mode": "images"}, "model.*sees none; use --im"),
        (
            CLICK_SCHEMA,
            {"model": "din", "warm_start_mode": "extend"},
            "images to a run without.*images=none",
        ),
        (CLICK_SCHEMA, {"warm_start_mode": "extend"}, r"has --images=both --aggregator=sum, and t"),
        (MORE_IDS, {"warm_start_mode": "extend"}, r"other ids and fields .*differing: user\)"),
    ],
)
def test_what_does_not_fit_is_named(samples, tmp_path, schema, changes, message):
    source = a_run(tmp_path / "old", samples, 0.5)
    with pytest.raises(ConfigError, match=message) as raised:
        started(samples, schema, warm_start=source, **changes)
    assert "\n" not in str(raised.value) and "--warm_start" in str(raised.value)


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ("lr", {"model": "lr", "images": "both"}, "first layer of an MLP, which this network l"),
        ("embedding_mlp", {"hidden": (7,)}, "6 there and 7 here; .*run of --model=embedding_"),
    ],
)
def test_what_cannot_be_extended_is_named(samples, tmp_path, there, here, message):
    source = a_run(tmp_path / "old", samples, 0.5, model=there)
    with pytest.raises(ConfigError, match=message):
        started(samples, warm_start=source, warm_start_mode="extend", **here)


@pytest.fixture(scope="module")
def dynamic_samples(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dynamic") / "data"
    return write_dataset(directory, split="train", schema=dynamic(CLICK_SCHEMA))


def rows_of(model):
    """Table -> id -> weights and slots."""
    return {
        name: {
            int(row_id): values.tolist()
            for _, page in layer.table.pages()
            for row_id, values in zip(page.ids.numpy(), page.values.numpy(), strict=True)
        }
        for name, layer in named_dynamic_embeddings(model).items()
    }


@pytest.mark.parametrize("mode", ["full", "partial"])
def test_rows_of_an_increment_are_read_with_what_it_adds_to(dynamic_samples, tmp_path, mode):
    run = RunDirectory(tmp_path / "old")
    asked = config(
        dynamic_samples, model="embedding_mlp", batch_size=4, full_checkpoint_every=9,
        eviction=("unseen_steps=3",),
    )  # fmt: skip
    training = Training(run, asked, segment_steps=2, validation="none")
    training.execute()
    newest = tf.train.latest_checkpoint(str(run.checkpoints))
    names = [name for name, _ in tf.train.list_variables(newest)]
    assert any(name.endswith("increment_parent") for name in names)
    wanted = rows_of(training._model)
    assert all(len(rows) > 5 for rows in wanted.values())

    changes = {"warm_start": str(run.path), "warm_start_mode": mode}
    now = config(dynamic_samples, model="embedding_mlp", **changes)
    model = make_model(now, dynamic_samples.schema, {})
    warm_start.apply(model, dynamic_samples.schema, now)
    if mode == "full":
        # Moments are of other data, as those of all weights.
        width = 2
        assert rows_of(model) == {
            name: {row_id: values[:width] for row_id, values in rows.items()}
            for name, rows in wanted.items()
        }
        assert all(len(v) == 3 * width for rows in wanted.values() for v in rows.values())
        new = Training(RunDirectory(tmp_path / "new"), now, segment_steps=2, validation="none")
        new.execute()
        assert all(len(v) == 3 * width for r in rows_of(new._model).values() for v in r.values())
    else:
        assert all(rows == {} for rows in rows_of(model).values())
    same = [
        np.array_equal(one, other)
        for one, other in zip(model.get_weights(), training._model.get_weights(), strict=True)
    ]
    # The table of users has a vocabulary.
    assert same.count(False) == (mode == "partial")


def test_partial_reads_a_run_with_a_vocabulary_into_one_without(samples, tmp_path):
    source = a_run(tmp_path / "old", samples, 0.5)
    schema = dynamic(CLICK_SCHEMA)
    changed, said = started(samples, schema, warm_start=source)
    assert "warm start (partial)" in said
    assert {name for name, read in changed.items() if not read} == {
        "id_embedding/table_user/embeddings:0",
        "id_embedding/table_item/anchor:0",
        "id_embedding/table_words/anchor:0",
    }
    with pytest.raises(ConfigError, match=r"other ids and fields .*differing: liked, words, item"):
        started(samples, schema, warm_start=source, warm_start_mode="full")


def test_a_run_that_is_not_there_is_named_with_the_flag(samples, tmp_path):
    new = RunDirectory(tmp_path / "new")
    with pytest.raises(ConfigError, match=r"--warm_start=/nowhere: .*is not a run"):
        new.check(config(samples, warm_start="/nowhere"))
    with pytest.raises(ConfigError, match="--warm_start_mode=full needs --warm_start"):
        config(samples, warm_start_mode="full")
    run = RunDirectory(tmp_path / "old")
    run.begin(config(samples))
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        started(samples, warm_start=str(run.path))


def test_a_training_starts_warm_once(small_dataset, tmp_path):
    flags = ("--learning_rate=0.003", "--validation=none")
    assert train(small_dataset, tmp_path / "old", *flags).returncode == 0
    flags = (*flags, f"--warm_start={tmp_path / 'old'}")
    first = train(small_dataset, tmp_path / "new", *flags)
    assert (first.returncode, first.stderr) == (0, "")
    assert "warm start (partial) from " in first.stdout
    told = report_of(tmp_path / "new")["warm_start"]
    assert told["mode"] == "partial" and 0 < told["loaded"] < told["total"]
    assert (
        json.loads((tmp_path / "new" / "config.json").read_text())["warm_start_mode"] == "partial"
    )
    again = train(small_dataset, tmp_path / "new", *flags, "--epochs=2")
    assert again.returncode == 0 and "warm start" not in again.stdout
