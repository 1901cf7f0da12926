"""Exports: what they hold, and that a process without this project gets the model's predictions."""

import json
import pathlib
import re
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.data import parse_batch
from amstf.delta import apply_delta, write_delta
from amstf.embed_store import embed_store
from amstf.errors import ExportError
from amstf.export import DESCRIPTION_FILE, export, input_names
from amstf.schema import Field, Schema
from amstf.stock_ops import check_stock_ops, custom_ops
from models import Dicm, EmbeddingMlp, build, image_tower
from tests.exports import FEATURES, ask_elsewhere, write_dataset, write_store
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

LABEL = Field("click", "label")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("export") / "data")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("export") / "images.h5")


def dicm(store, aggregator="sum", schema=CLICK_SCHEMA, **arguments):
    tower = image_tower((4, 3))
    model = build(Dicm(schema, store, tower, aggregator, hidden=(6,), **arguments), schema)
    shake(model)
    return model


def shake(model):
    """Moves the weights to where images, PReLU slopes and all the rest make a difference."""
    rng = np.random.default_rng(5)
    model.set_weights([w + rng.normal(0, 0.5, size=w.shape) for w in model.get_weights()])


def request(batch, rows=slice(None)):
    names = input_names(CLICK_SCHEMA)
    return {names[key]: value.numpy()[rows] for key, value in batch.items()}


class Exported(NamedTuple):
    """A model, its export, and what the two say of the same samples and images."""

    model: keras.Model
    path: pathlib.Path
    description: dict
    want: dict[str, np.ndarray]
    got: dict[str, np.ndarray]


KINDS = ("dicm sum", "dicm attentive", "embedding_mlp")
NEW_IMAGES = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(samples, store, tmp_path_factory):
    """All kinds of models, exported, and asked in one process without this project."""
    directory = tmp_path_factory.mktemp("exports")
    records = [
        record
        for path in samples.files("test")
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
    ]
    batch = parse_batch(tf.constant(records), CLICK_SCHEMA.inputs)
    assert np.any(batch["image"] == -1)
    result, questions = {}, []
    for kind in KINDS:
        if kind == "embedding_mlp":
            model = build(EmbeddingMlp(CLICK_SCHEMA, hidden=(6,)), CLICK_SCHEMA)
            shake(model)
        else:
            model = dicm(store, kind.split()[1])
        path = directory / kind.replace(" ", "-")
        clicks = model.predict(batch, verbose=0)
        weights = len(model.weights)
        description = export(model, CLICK_SCHEMA, path)
        # The model itself goes on as before.
        np.testing.assert_array_equal(model.predict(batch, verbose=0), clicks)
        np.testing.assert_allclose(model(batch), clicks, rtol=1e-5)
        assert len(model.weights) == weights
        want = {}
        for rows in (len(records), 1):
            want[f"examples {rows}"] = want[f"inputs {rows}"] = clicks[:rows]
            examples = {"examples": np.array(records[:rows], object)}
            questions.append((kind, f"examples {rows}", "serving_default", examples))
            inputs = request(batch, slice(rows))
            questions.append((kind, f"inputs {rows}", "predict", inputs))
        if kind != "embedding_mlp":
            layer = model.image_embeddings["images"]
            for name, features in (("new", NEW_IMAGES), ("one", NEW_IMAGES[:1]), ("old", FEATURES)):
                want[name] = layer.embed_features(features).numpy()
                questions.append((kind, name, "embed_images", {"features": features}))
            np.testing.assert_allclose(want["old"], layer(np.arange(30)), rtol=0, atol=1e-6)
        result[kind] = Exported(model, path, description, want, {})
    asked = [(str(result[kind].path), *question) for kind, _, *question in questions]
    answers = ask_elsewhere(asked, directory)
    for (kind, name, *_), answer in zip(questions, answers, strict=True):
        result[kind].got[name] = answer
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_this_project_gets_the_models_predictions(exported, kind):
    _, path, _, want, got = exported[kind]
    assert custom_ops(path) == []
    assert want.keys() == got.keys() and len(want) >= 4
    for name, answer in got.items():
        assert answer.dtype == np.float32 and answer.shape == want[name].shape
        np.testing.assert_allclose(answer, want[name], rtol=0, atol=1e-5, err_msg=name)
        assert len(answer) == 1 or answer.std() > 0.01, "what is all alike proves nothing"


def test_an_image_that_the_table_lacks_is_no_image(exported):
    serve = tf.saved_model.load(str(exported["dicm attentive"].path)).signatures["predict"]
    batch = tensors(random_batch(CLICK_SCHEMA, 3, 2))
    batch = {k: tf.cast(v, tf.int64) if v.dtype.is_integer else v for k, v in batch.items()}
    answers = []
    for image in (-1, 10**12, 30, -5):
        batch["image"] = tf.fill([3], tf.constant(image, tf.int64))
        inputs = {input_names(CLICK_SCHEMA)[key]: value for key, value in batch.items()}
        answers.append(serve(**inputs)["click_probability"].numpy())
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_an_image_that_the_table_lacks_has_the_vector_that_was_learnt(store, tmp_path):
    """Also in a process that never heard of this project, and after a delta that moves it."""
    model = dicm(store, missing="learn")
    vector = model.image_embeddings["images"].embedding_model.missing_embedding
    assert np.abs(vector.numpy()).min() > 0
    batch = tensors(random_batch(CLICK_SCHEMA, 3, 2))
    batch = {k: tf.cast(v, tf.int64) if v.dtype.is_integer else v for k, v in batch.items()}
    images = {"no image": -1, "unknown": 10**12, "also unknown": 31, "known": 7}
    asked = {name: {**batch, "image": tf.fill([3], tf.constant(image, tf.int64))}
             for name, image in images.items()}  # fmt: skip

    def ask(serve, batch):
        inputs = {input_names(CLICK_SCHEMA)[key]: value for key, value in batch.items()}
        return serve(**inputs)["click_probability"].numpy()

    description = export(model, CLICK_SCHEMA, tmp_path / "old")
    np.testing.assert_array_equal(description["images"]["images"]["default"], vector.numpy())
    loaded = tf.saved_model.load(str(tmp_path / "old"))
    answers = {name: ask(loaded.signatures["predict"], of_one) for name, of_one in asked.items()}
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, model(asked[name]), rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(answers["unknown"], answers["also unknown"])
    for other in ("no image", "known"):
        assert np.abs(answers["unknown"] - answers[other]).min() > 1e-4, other

    vector.assign_add(tf.ones_like(vector))
    export(model, CLICK_SCHEMA, tmp_path / "new")
    write_delta(tmp_path / "old", tmp_path / "new", tmp_path / "delta.h5")
    apply_delta(loaded, tmp_path / "delta.h5")
    after = ask(loaded.signatures["predict"], asked["unknown"])
    np.testing.assert_allclose(after, model(asked["unknown"]), rtol=0, atol=1e-6)
    assert np.abs(after - answers["unknown"]).min() > 1e-4


def test_stores_that_share_an_embedding_model_share_the_vector(store):
    schema = Schema((*CLICK_SCHEMA.fields, Field("second", "image", side="ad", store="more")))
    model = dicm({"images": store, "more": store}, schema=schema, missing="learn")
    one, other = model.image_embeddings.values()
    assert one.embedding_model is other.embedding_model
    again = Dicm.from_config(model.get_config())
    one, other = again.image_embeddings.values()
    assert one.missing == "learn" and one.embedding_model is other.embedding_model
    build(again, schema)
    assert len(again.weights) == len(model.weights)


def test_lists_longer_than_in_training_are_cut_as_the_reader_cuts_them(tmp_path):
    schema = Schema(
        (
            Field("seen", "sparse", is_list=True, max_length=2, vocabulary_size=9),
            Field("tags", "weighted_sparse", is_list=True, max_length=1, vocabulary_size=9),
            LABEL,
        )
    )
    model = build(EmbeddingMlp(schema, hidden=(4,)), schema)
    shake(model)
    export(model, schema, tmp_path / "model")
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["predict"]
    ids, weights = tf.constant([[1, 2, 3]], tf.int64), tf.constant([[2.0, 3.0, 4.0]])
    long = serve(seen=ids, tags=ids, tags_weight=weights)
    short = serve(seen=ids[:, :2], tags=ids[:, :1], tags_weight=weights[:, :1])
    np.testing.assert_array_equal(long["click_probability"], short["click_probability"])


def test_two_stores_have_a_table_and_a_signature_each(store, tmp_path):
    schema = Schema(
        tuple(
            Field("image", "image", side="ad", store="ads") if field.name == "image" else field
            for field in CLICK_SCHEMA.fields
        )
    )
    ads = write_store(tmp_path / "ads.h5", features=-FEATURES)
    model = dicm({"ads": ads, "images": store}, schema=schema)
    seen = []
    export(model, schema, tmp_path / "model", progress=lambda *news: seen.append(news))
    assert seen == [("ads", 30, 30), ("images", 30, 30)]
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    names = ["embed_images_ads", "embed_images_images", "predict", "score_ads", "serving_default"]
    assert sorted(signatures) == names
    batch = tensors(random_batch(schema, 4, 3))
    batch = {k: tf.cast(v, tf.int64) if v.dtype.is_integer else v for k, v in batch.items()}
    got = signatures["predict"](**{input_names(schema)[key]: value for key, value in batch.items()})
    np.testing.assert_allclose(got["click_probability"], model(batch), rtol=0, atol=1e-5)


def test_each_variable_is_stored_once_and_nothing_else(exported):
    model, path, *_ = exported["dicm attentive"]
    stored = tf.train.list_variables(str(path / "variables/variables"))
    shapes = sorted(tuple(shape) for name, shape in stored if name.startswith("state/"))
    table = [(30,), (30, 3)]
    assert shapes == sorted([*(tuple(w.shape) for w in model.weights), *table])


def test_neither_optimizer_nor_images_nor_the_table_make_the_graph_big(tmp_path):
    schema = Schema((Field("age", "dense"), Field("image", "image", side="ad"), LABEL))
    store = write_store(tmp_path / "big.h5", features=np.zeros((30, 5000), np.float32))
    tower = keras.layers.Dense(2000, kernel_initializer="zeros")
    model = build(Dicm(schema, store, tower, hidden=(2,)), schema)
    model.compile("adam", "binary_crossentropy")
    model.fit({"age": tf.ones([4, 1]), "image": tf.range(4)}, tf.ones([4, 1]), verbose=0)
    export(model, schema, tmp_path / "wide", images=model.image_embeddings)
    assert (tmp_path / "wide" / "saved_model.pb").stat().st_size < 200_000
    weights = sum(4 * int(np.prod(w.shape)) for w in model.weights)
    size = (tmp_path / "wide/variables/variables.data-00000-of-00001").stat().st_size
    assert size == pytest.approx(weights + 30 * (2000 * 4 + 8), rel=0.01)


def test_what_is_traced_on_the_store_itself_is_refused(store, tmp_path):
    model = dicm(store)
    module = tf.Module()
    module.model = model
    features = tf.TensorSpec([None], tf.int64)
    traced = tf.function(model.image_embeddings["images"]).get_concrete_function(features)
    tf.saved_model.save(module, str(tmp_path / "local"), signatures=traced)
    assert custom_ops(tmp_path / "local") == ["AmsImageLookup", "AmsImageStore"]
    with pytest.raises(ExportError, match="AmsImageLookup, AmsImageStore; a TF Serving could not"):
        check_stock_ops(tmp_path / "local")
    # An image layer that export is not told about ends in the same, and leaves nothing behind.
    with pytest.raises(ExportError, match=r"ops that stock TensorFlow .* named in `images`"):
        export(model, CLICK_SCHEMA, tmp_path / "model", images={})
    assert not (tmp_path / "model").exists()
    with pytest.raises(ExportError, match="holds no SavedModel"):
        check_stock_ops(tmp_path)


def test_the_description_tells_fields_and_signatures(exported):
    _, path, description, *_ = exported["dicm sum"]
    stored = json.loads((path / DESCRIPTION_FILE).read_text())
    assert stored == description
    assert stored["images"]["images"] == {
        "images": 30, "features": 5, "embedding_width": 3,
        "table": "inside", "dtype": "float32", "default": [0, 0, 0],
    }  # fmt: skip
    assert exported["embedding_mlp"].description["images"] == {}
    assert "embed_images" not in exported["embedding_mlp"].description["signatures"]
    assert Schema.from_json(json.dumps(stored["schema"])) == CLICK_SCHEMA
    inputs = stored["signatures"]["predict"]["inputs"]
    assert inputs["words_weight"] == {
        "dtype": "float32",
        "shape": [None, None],
        "field": "words.weight",
    }
    outputs = {"click_probability": {"dtype": "float32", "shape": [None, 1]}}
    for name in ("predict", "serving_default"):
        assert stored["signatures"][name]["outputs"] == outputs
    assert stored["versions"]["tensorflow"] == tf.__version__


def test_bad_requests_to_export(store, tmp_path):
    model = dicm(store)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "photo.jpg").write_text("x")
    with pytest.raises(ExportError, match="taken exists; export to a directory"):
        export(model, CLICK_SCHEMA, tmp_path / "taken")
    with pytest.raises(ExportError, match=r"has no variables yet; call it on a batch"):
        export(EmbeddingMlp(CLICK_SCHEMA), CLICK_SCHEMA, tmp_path / "model")
    twins = Schema(
        (
            Field("a b", "sparse", vocabulary_size=2),
            Field("a.b", "sparse", vocabulary_size=2),
            LABEL,
        )
    )
    with pytest.raises(ExportError, match=re.escape("'a b' and 'a.b' would both be the input")):
        input_names(twins)
    names = ("self", "7 days", "_x")
    odd = Schema((*(Field(name, "sparse", vocabulary_size=2) for name in names), LABEL))
    assert list(input_names(odd).values()) == ["field_self", "field_7_days", "field__x"]
    model = build(EmbeddingMlp(odd, hidden=(2,)), odd)
    export(model, odd, tmp_path / "odd")
    assert (tmp_path / "odd" / "saved_model.pb").exists()


@pytest.mark.parametrize("block", [1, 7, 30, 100])
def test_a_store_is_embedded_block_by_block(store, block):
    layer = dicm(store).image_embeddings["images"]
    seen = []
    ids, embeddings = embed_store(layer, lambda *news: seen.append(news), block)
    np.testing.assert_array_equal(ids, np.arange(30))
    np.testing.assert_allclose(embeddings, layer(ids), rtol=0, atol=1e-6)
    assert seen[-1] == (30, 30) and len(seen) == -(-30 // block)


def test_a_table_leaves_the_layer_as_it_was(store):
    layer = dicm(store).image_embeddings["images"]
    ids = tf.constant([3, -1, 4], tf.int64)
    before, weights = layer(ids), len(layer.weights)
    with layer.table([4, 9], np.ones([2, 3], np.float32)):
        np.testing.assert_array_equal(layer(ids), [[0, 0, 0], [0, 0, 0], [1, 1, 1]])
        assert len(layer.weights) == weights
    with pytest.raises(RuntimeError), layer.table([], []):
        np.testing.assert_array_equal(layer(ids), np.zeros([3, 3]))
        raise RuntimeError
    np.testing.assert_array_equal(layer(ids), before)
    assert len(layer.weights) == weights


def test_an_exported_models_checkpoint_is_that_of_the_model(exported, store, tmp_path):
    model = exported["dicm sum"].model
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=dicm(store)).restore(path).assert_consumed()
