"""Fields without a vocabulary in the models: as fields with one, whose rows are the same."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from amstf.errors import SchemaError
from amstf.layers import dynamic_embeddings, follow_tables
from amstf.optimizers import Adam
from amstf.schema import WEIGHTED_SPARSE, Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from models import (
    Dcn,
    DcnV2,
    DeepFm,
    Dicm,
    Din,
    EmbeddingMlp,
    FiBiNet,
    IdRegularization,
    LogisticRegression,
    MutualLearning,
    Pnn,
    TwoTower,
    build,
    image_tower,
)
from models.id_embedding import IdEmbedding
from tests.helpers import CLICK_SCHEMA, ragged, random_batch, tensors


def dynamic(schema):
    """The schema with dynamic fields in place of those of the tables of items and words."""
    return Schema(
        tuple(
            dataclasses.replace(field, vocabulary_size=None, hash_size=None, dynamic=True)
            if field.table_name in ("item", "words")
            else field
            for field in schema.fields
        )
    )


@pytest.mark.parametrize("form", [tensors, lambda batch: ragged(CLICK_SCHEMA, batch)])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_fields_equal_those_with_a_vocabulary(form, batch_size):
    batch = random_batch(CLICK_SCHEMA, batch_size, 5)
    static, layer = IdEmbedding(CLICK_SCHEMA), IdEmbedding(dynamic(CLICK_SCHEMA))
    inputs = form(batch)
    layer(inputs, training=True)
    items = layer.dynamic_tables["item"].table.lookup(tf.range(30, dtype=tf.int64), False)
    static.tables["item"].build(None)
    static.tables["item"].set_weights([np.concatenate([items, np.zeros([1, 2])])])
    got = layer(inputs, per_field=True)
    wanted = static(inputs, per_field=True)
    for name in ("item", "liked"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-6)
    # Words are not hashed into 7 buckets: each has a row of its own.
    assert layer.dynamic_tables["words"].table.counters()["rows"] == len(
        set(np.ravel(batch["words"])) - {""}
    )
    assert got["words"].shape == (batch_size, 2)


def test_a_model_learns_ids_that_no_vocabulary_foresaw():
    schema = Schema(
        (Field("x", "sparse", dynamic=True, embedding_width=4), Field("click", "label"))
    )
    model = EmbeddingMlp(schema, hidden=(4,))
    model.compile(Adam(0.05), "binary_crossentropy")
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, 40)[
        np.random.default_rng(1).integers(0, 40, 512)
    ]
    clicks = (ids % 2)[:, np.newaxis]
    model.fit({"x": ids}, clicks, epochs=12, batch_size=32, verbose=0)
    assert model.evaluate({"x": ids}, clicks, verbose=0) < 0.1
    copy = EmbeddingMlp(schema, hidden=(4,))
    copy({"x": ids})
    copy.set_weights(model.get_weights())
    assert not np.allclose(copy({"x": ids}), model({"x": ids}))
    follow_tables(copy, model)
    np.testing.assert_array_equal(copy({"x": ids}), model({"x": ids}))


MODELS = {
    "lr": lambda schema, images: LogisticRegression(schema),
    "embedding_mlp": lambda schema, images: EmbeddingMlp(schema, hidden=(4,)),
    "din": lambda schema, images: Din(schema, hidden=(4,)),
    "dicm": lambda schema, images: Dicm(schema, **images),
    "dicm on din": lambda schema, images: Dicm(schema, base=Din, **images),
    "two towers": lambda schema, images: TwoTower(schema, hidden=(4, 2), **images),
    "deepfm": lambda schema, images: DeepFm(schema, hidden=(4,)),
    "dcn": lambda schema, images: Dcn(schema, hidden=(4,)),
    "dcn_v2": lambda schema, images: DcnV2(schema, hidden=(4,)),
    "pnn": lambda schema, images: Pnn(schema, hidden=(4,)),
    "fibinet": lambda schema, images: FiBiNet(schema, hidden=(4,)),
    "mutual": lambda schema, images: MutualLearning(
        {"lr": LogisticRegression(schema), "deepfm": DeepFm(schema), "dicm": Dicm(schema, **images)}
    ),
}
SAME_WIDTH = Schema(tuple(
    dataclasses.replace(field, embedding_width=2) if field.kind.endswith("sparse") else field
    for field in CLICK_SCHEMA.fields
))  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.h5"
    with ImageStoreWriter(path, width=6) as writer:
        writer.write(
            np.arange(30), np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
        )
    return ImageStore.open(path)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_them(name, store):
    schema = dynamic(SAME_WIDTH)
    images = {"images": store, "embedding_model": image_tower((4, 2)), "aggregator": "mean"}
    model = build(MODELS[name](schema, images), schema)
    model.compile(Adam(0.01), "binary_crossentropy")
    inputs = tensors(random_batch(CLICK_SCHEMA, 16, 4))
    clicks = tf.cast(tf.range(16) % 2, tf.float32)[:, None]
    data = tf.data.Dataset.from_tensors((inputs, clicks)).repeat(20)
    layers = dynamic_embeddings(model)
    members = getattr(model, "members", {name: model})
    # One for items, one for words, in each model by itself.
    assert len({layer.table._name for layer in layers}) >= 2 * len(members)
    losses = model.fit(data, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses)) and losses[1] < losses[0]
    for layer in layers:
        counted = layer.table.counters()
        assert counted["rows"] > 3 and counted["rows_updated"] >= 10 * counted["rows"], layer.name
    assert np.all(np.isfinite(model.predict(inputs, verbose=0)))


def test_what_a_vocabulary_is_needed_for_is_refused():
    with pytest.raises(
        SchemaError, match="'liked' is dynamic: how often its ids will occur is not"
    ):
        IdEmbedding(dynamic(CLICK_SCHEMA), embeddings_regularizer=IdRegularization(l2=0.1))
    with pytest.raises(SchemaError, match="give exactly one of vocabulary_size, hash_size and dyn"):
        Field("x", "sparse", vocabulary_size=3, dynamic=True)
    with pytest.raises(SchemaError, match="dynamic are for sparse fields, this one is dense"):
        Field("x", "dense", dynamic=True)
    with pytest.raises(SchemaError, match="dynamic must be true or false, got 1"):
        Field("x", "sparse", dynamic=1)
    with pytest.raises(SchemaError, match="share the table 't' but differ in"):
        Schema((
            Field("x", "sparse", vocabulary_size=3, table="t"),
            Field("y", "sparse", dynamic=True, table="t"),
            Field("click", "label"),
        ))  # fmt: skip
    words = Field("w", WEIGHTED_SPARSE, is_list=True, dtype="string", dynamic=True)
    schema = Schema((words, Field("click", "label")))
    assert Schema.from_json(schema.to_json()) == schema
