"""Exports of models with dynamic tables: stock ops, the model's predictions, deltas of rows."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.delta import apply_delta, write_delta
from amstf.dynamic import StaticRows, index_of
from amstf.errors import ExportError
from amstf.export import export, read_description
from amstf.layers import DynamicEmbedding, dynamic_embeddings
from amstf.optimizers import Adam
from amstf.schema import Schema
from amstf.signatures import input_names
from amstf.stock_ops import custom_ops
from launch.export_check import check_export, first_records
from models import Dicm, TwoTower, build, image_tower
from tests.exports import write_dataset, write_store
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

TABLES = ("user", "item", "words")
SCHEMA = Schema(tuple(
    dataclasses.replace(field, vocabulary_size=None, hash_size=None, dynamic=True)
    if field.table_name in TABLES
    else field
    for field in CLICK_SCHEMA.fields
))  # fmt: skip
NEW_USER = 2**40 + 7


def batch_of(size, seed):
    batch = tensors(random_batch(CLICK_SCHEMA, size, 4, seed=seed))
    return {k: tf.cast(v, tf.int64) if v.dtype.is_integer else v for k, v in batch.items()}


def trained(model, seeds, batch=None):
    """Takes some steps with large gradients, so that rows are where they make a difference."""
    if not model.optimizer:
        model.compile(Adam(0.1), "binary_crossentropy")
    for seed in seeds:
        inputs = batch or batch_of(24, seed)
        clicks = np.random.default_rng(seed).integers(0, 2, [len(inputs["user"]), 1])
        model.train_on_batch(inputs, clicks)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    store = write_store(tmp_path_factory.mktemp("dynamic") / "images.h5")
    model = Dicm(SCHEMA, store, image_tower((4, 3)), "attentive", hidden=(6,))
    return trained(build(model, SCHEMA), range(6))


class Versions:
    """Two exports of a model: later a user and words are new, a user is dead, others moved."""

    def __init__(self, model, directory):
        self.old, self.new = directory / "old", directory / "new"
        self.description = export(model, SCHEMA, self.old)
        records = first_records(write_dataset(directory / "data", schema=SCHEMA), "test", 40)
        self.differences = check_export(
            self.old, model, SCHEMA, records, self.description["signatures"]
        )
        self.user = next(each for each in dynamic_embeddings(model) if each.name == "table_user")
        self.batch = batch_of(9, 11)
        # Users: known, never seen, no user; and one who is to come.
        self.batch["user"] = tf.constant([0, 1, 2, 3, 4, 5, 10**9, -1, NEW_USER], tf.int64)
        self.before = model(self.batch).numpy()
        # What is evicted has not been seen in the last steps; then only user 4 and the new one are.
        seen = {**batch_of(2, 20), "user": tf.constant([4, NEW_USER], tf.int64)}
        trained(model, range(3), seen)
        self.evicted = self.user.table.evict("least_recent", 12)
        export(model, SCHEMA, self.new)
        self.after = model(self.batch).numpy()
        self.request = {input_names(SCHEMA)[key]: value for key, value in self.batch.items()}


@pytest.fixture(scope="module")
def versions(model, tmp_path_factory):
    return Versions(model, tmp_path_factory.mktemp("versions"))


def ids_and_rows(table):
    ids, rows = zip(*((p.ids.numpy(), p.values.numpy()[:, : table.options.width])
                      for _, p in table.pages()), strict=True)  # fmt: skip
    return dict(zip(np.concatenate(ids).tolist(), np.concatenate(rows).tolist(), strict=True))


def test_tables_become_static_hash_tables_with_their_rows(versions):
    assert custom_ops(versions.old) == []
    assert versions.description == read_description(versions.old)
    about = versions.description["dynamic_tables"]
    assert about["table_user"] == {"rows": 20, "width": 3} and about["table_item"]["width"] == 2
    assert about.keys() == {"table_item", "table_user", "table_words"}
    loaded = tf.saved_model.load(str(versions.new))
    graph = (versions.new / "saved_model.pb").read_bytes()
    assert b"HashTableV2" in graph and b"LookupTableFindV2" in graph
    names = read_description(versions.new)["variables"]
    ids, rows = (
        loaded.state[names.index(f"table_user/dynamic_{part}:0")].numpy()
        for part in ("ids", "rows")
    )
    got = dict(zip(ids.tolist(), rows.tolist(), strict=True))
    assert got.pop(-1) == [0, 0, 0]
    assert got == ids_and_rows(versions.user.table) and len(got) == 12


def test_a_process_without_this_project_gets_the_models_predictions(versions):
    assert versions.differences.keys() == {"serving_default", "predict", "score_ads"}
    # A user is new and others moved: the model went on with its own table.
    assert np.abs(versions.after - versions.before)[8] > 1e-3


def test_a_delta_carries_changed_new_and_dead_rows(versions, tmp_path):
    summary = write_delta(versions.old, versions.new, tmp_path / "delta.h5")
    assert versions.evicted == 9 == summary.ids_removed
    assert summary.ids_changed >= 2 and summary.images_removed == 0
    loaded, whole = (tf.saved_model.load(str(path)) for path in (versions.old, versions.new))
    score = loaded.signatures["predict"]
    before = score(**versions.request)["click_probability"]
    np.testing.assert_allclose(before, versions.before, rtol=0, atol=1e-6)
    apply_delta(loaded, tmp_path / "delta.h5")
    for got, want in zip(loaded.state, whole.state, strict=True):
        np.testing.assert_array_equal(got, want)
    want = whole.signatures["predict"](**versions.request)["click_probability"]
    np.testing.assert_array_equal(score(**versions.request)["click_probability"], want)
    np.testing.assert_allclose(want, versions.after, rtol=0, atol=1e-6)
    # Nothing changed since: an empty delta, which applies too.
    summary = write_delta(versions.new, versions.new, tmp_path / "empty.h5")
    assert (summary.rows, summary.ids_changed, summary.ids_removed) == ({}, 0, 0)
    apply_delta(loaded, tmp_path / "empty.h5")
    np.testing.assert_array_equal(score(**versions.request)["click_probability"], want)


def test_a_hash_table_of_before_never_gives_another_ids_row():
    layer = DynamicEmbedding(1, initializer="ones")
    layer(tf.constant([7, 9], tf.int64), training=True)
    rows = StaticRows(layer.table, "t")
    rows.ids.assign([-1, 5, 7, 9])
    rows.rows.assign([[0.0], [5.0], [7.0], [9.0]])
    ids = tf.constant([5, 7, 9, -1], tf.int64)
    # To it 9 is at place 2, where 7 is now.
    np.testing.assert_array_equal(rows.lookup(ids), [[0], [0], [0], [0]])
    rows.index = index_of(rows.ids)
    np.testing.assert_array_equal(rows.lookup(ids), [[5], [7], [9], [0]])
    # Of rows that became fewer: places beyond the end.
    rows.index = index_of(tf.Variable([1, 2, 3, 4, 7, 9], dtype=tf.int64))
    np.testing.assert_array_equal(rows.lookup(ids[:3]), [[0], [0], [9]])


def test_one_tower_brings_its_own_tables_only(tmp_path):
    store = write_store(tmp_path / "images.h5")
    model = trained(build(TwoTower(SCHEMA, store, image_tower((4, 3)), hidden=(4,)), SCHEMA), [0])
    ad = export(model, SCHEMA, tmp_path / "ad", signatures=["ad_embedding"])
    assert ad["dynamic_tables"].keys() == {"table_item"}
    loaded = tf.saved_model.load(str(tmp_path / "ad"))
    assert len(loaded.tables) == 1
    part = model.served_parts()["ad_embedding"]
    inputs = {key: batch_of(4, 3)[key] for key in part.inputs}
    got = loaded.signatures["ad_embedding"](**{
        input_names(SCHEMA)[key]: value for key, value in inputs.items()
    })["ad_embedding"]  # fmt: skip
    np.testing.assert_allclose(got, part.function(inputs)["ad_embedding"], rtol=0, atol=1e-6)


class Summed(keras.Model):
    """Sums tables, of which two layers have one name."""

    def __init__(self):
        super().__init__()
        minus_four = keras.initializers.Constant(-4.0)
        self.one = DynamicEmbedding(1, initializer="ones", name="table")
        self.other = DynamicEmbedding(1, initializer=minus_four, name="table")
        # Sorts before table, if something follows both.
        self.third = DynamicEmbedding(1, initializer="ones", name="table-b")

    def call(self, inputs, training=None):
        ids = inputs["user"]
        of_ids = self.one(ids, training=training) + self.other(ids, training=training)
        return tf.sigmoid(of_ids + self.third(ids % 2, training=training))


def test_tables_of_one_name_are_told_apart(tmp_path):
    schema = Schema((SCHEMA["user"], SCHEMA["click"]))
    model = Summed()
    model({"user": tf.constant([5, 8, 7], tf.int64)}, training=True)
    description = export(model, schema, tmp_path / "model", signatures=["predict"])
    assert description["dynamic_tables"].keys() == {"table", "table_1", "table-b"}
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    predict = loaded.signatures["predict"]
    got = predict(user=tf.constant([5, 6], tf.int64))["click_probability"]
    np.testing.assert_allclose(got, [[1 / (1 + np.e**2)], [1 / (1 + 1 / np.e)]], rtol=1e-6)
    # A hash table is known by the place of its ids in the state.
    sizes = [variable.numpy().shape[0] for variable in loaded.state[::2]]
    found = [
        tf.raw_ops.LookupTableSizeV2(table_handle=table.resource_handle).numpy()
        for table in loaded.tables
    ]
    assert found == sizes == [3, 4, 4]


def test_ids_without_a_row_are_embedded_as_the_layer_does():
    ids = tf.constant([7, 8, -1], tf.int64)
    layer = DynamicEmbedding(2, initializer=keras.initializers.Constant(3.0), without_row="initial")
    empty = StaticRows(layer.table, "t")
    assert len(empty) == 0
    np.testing.assert_array_equal(empty.lookup(ids), [[3, 3], [3, 3], [0, 0]])
    layer(ids[:1], training=True)
    before = layer(ids)
    with layer.static_rows("t") as rows:
        np.testing.assert_array_equal(layer(ids), before)
        assert len(rows) == 1
    random = DynamicEmbedding(2, initializer="uniform", without_row="initial")
    with pytest.raises(ExportError, match="t embeds ids without a row by their initial values"):
        StaticRows(random.table, "t")
