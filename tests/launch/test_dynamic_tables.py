"""The limit of dynamic tables in a run, which is obeyed, and what reports say of them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from amstf.dynamic import TableLimit
from amstf.errors import ConfigError
from amstf.layers import named_dynamic_embeddings
from amstf.schema import Field, Schema
from launch import dynamic_tables
from models import EmbeddingMlp, build

SCHEMA = Schema((
    Field("user", "sparse", dynamic=True, embedding_width=12),
    Field("word", "sparse", dtype="string", dynamic=True, embedding_width=2),
    Field("click", "label"),
))  # fmt: skip
MIB = 1 << 20


@pytest.fixture
def model():
    return build(EmbeddingMlp(SCHEMA, hidden=(2,)), SCHEMA)


def test_a_limit_for_all_tables_together_is_obeyed(model):
    dynamic_tables.limit(model, 20)
    limits = {k: v["limit_bytes"] for k, v in dynamic_tables.counters(model).items()}
    # 32 + 12 x 12 and 32 + 12 x 2 bytes a row: each may have as many rows.
    assert limits == {"table_user": 20 * MIB * 176 // 232, "table_word": 20 * MIB * 56 // 232}
    user = named_dynamic_embeddings(model)["table_user"]
    user.table.apply(tf.IndexedSlices(tf.zeros([0, 12]), tf.zeros([0], tf.int64)), "adam",
                     [0.1, 0.9, 0.999, 1e-7], 1)  # fmt: skip
    for first in range(0, 200_000, 10_000):
        user(tf.range(first, first + 10_000, dtype=tf.int64), training=True)
        (counted,) = user.table.counters_by_server()
        assert counted["bytes"] <= limits["table_user"]
    # Full, but for what the index would take if it grew; what went is what was unseen for longest.
    assert counted["bytes"] > 0.7 * limits["table_user"]
    assert counted["rows"] + counted["rows_evicted"] == counted["rows_admitted"] == 200_000
    ids = np.concatenate([page.ids.numpy() for _, page in user.table.pages()])
    assert (ids >= 190_000).sum() > 8 * (ids < 100_000).sum() * 10_000 / 100_000


def test_no_limit_is_as_before_and_too_small_a_one_is_refused(model):
    names = {name: layer.table._name for name, layer in named_dynamic_embeddings(model).items()}
    dynamic_tables.limit(model, 0)
    assert names == {n: each.table._name for n, each in named_dynamic_embeddings(model).items()}
    with pytest.raises(ConfigError, match=r"--dynamic_memory=16 is too little for 2 dyn.* 17 MiB"):
        dynamic_tables.limit(model, 16)
    dynamic_tables.limit(model, 17)
    user = named_dynamic_embeddings(model)["table_user"]
    user(tf.constant([3], tf.int64), training=True)
    assert user.get_config()["limit"]["bytes"] == user.options.limit.bytes > 0
    with pytest.raises(ConfigError, match="the table has 1 rows; choose its limit before it gets"):
        user.table.limit_to(TableLimit())


def test_a_copy_that_follows_has_the_limit_too(model):
    dynamic_tables.limit(model, 20)
    copy = build(EmbeddingMlp(SCHEMA, hidden=(2,)), SCHEMA)
    one, other = (named_dynamic_embeddings(each)["table_user"] for each in (copy, model))
    other(tf.constant([3], tf.int64), training=True)
    one.table.follow(other.table)
    assert one.options == other.options
    np.testing.assert_array_equal(
        one(tf.constant([3], tf.int64)), other(tf.constant([3], tf.int64))
    )


def test_a_model_without_dynamic_fields_has_no_counters():
    schema = Schema((
        dataclasses.replace(SCHEMA["user"], dynamic=False, vocabulary_size=3), SCHEMA["click"]
    ))  # fmt: skip
    model = build(EmbeddingMlp(schema, hidden=(2,)), schema)
    dynamic_tables.limit(model, 1)
    assert dynamic_tables.counters(model) == {}
