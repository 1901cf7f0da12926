"""Page views, tables beside an export, float16 tables and deltas, against the model itself."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf

from amstf import image_tables
from amstf.delta import apply_delta, write_delta
from amstf.embed_store import embed_store
from amstf.errors import ExportError
from amstf.export import DESCRIPTION_FILE, export
from amstf.schema import Field, Schema
from amstf.signatures import embedding_name, input_names
from amstf.stock_ops import custom_ops
from amstf.store import ImageStore, ImageStoreWriter
from launch.export_check import TOLERANCE, check_export, first_records
from models import Dicm, EmbeddingMlp, LogisticRegression, build, image_tower
from tests.exports import FEATURES, write_dataset, write_store
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

HOUR = Field("hour", "sparse", side="context", dtype="string", hash_size=5, embedding_width=2)
SCHEMA = Schema((*CLICK_SCHEMA.fields, HOUR))
ADS = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("tables") / "images.h5")


def dicm(store, aggregator="sum", schema=SCHEMA):
    tower = image_tower((4, 3))
    return shaken(build(Dicm(schema, store, tower, aggregator, hidden=(6,)), schema))


def shaken(model, scale=0.3):
    """Moves the weights to where every part makes a difference, and no sigmoid is 0 or 1."""
    rng = np.random.default_rng(5)
    model.set_weights([w + rng.normal(0, scale, size=w.shape) for w in model.get_weights()])
    return model


def page_view(schema=SCHEMA):
    """Returns a request of one user and `ADS` ads, and the same as a batch of samples."""
    user, ads = random_batch(schema, 1, 5, seed=2), random_batch(schema, ADS, 5, seed=3)
    sides = {name: f.side for f in schema.inputs for name in (f.name, f.weight_name)}
    request = {key: (ads if sides[key] == "ad" else user)[key] for key in user}
    repeated = {
        key: value if sides[key] == "ad" else np.repeat(value, ADS, axis=0)
        for key, value in request.items()
    }
    assert (request["liked_images"] >= 0).any()
    return as_int64(tensors(request)), as_int64(tensors(repeated))


def as_int64(batch):
    return {k: tf.cast(v, tf.int64) if v.dtype.is_integer else v for k, v in batch.items()}


def renamed(batch, given=()):
    names = input_names(SCHEMA, given)
    return {names[key]: value for key, value in batch.items()}


@pytest.mark.parametrize("kind", ["sum", "multi_query", "lr", "mlp"])
def test_one_user_with_many_ads_is_what_the_model_gives_for_each(store, tmp_path, kind):
    if kind in ("lr", "mlp"):
        network = {"lr": LogisticRegression, "mlp": EmbeddingMlp}[kind]
        model = shaken(build(network(SCHEMA, hidden=(6,)), SCHEMA))
    else:
        model = dicm(store, kind)
    export(model, SCHEMA, tmp_path / "model", signatures=["score_ads"])
    assert custom_ops(tmp_path / "model") == []
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    request, repeated = page_view()
    got = loaded.signatures["score_ads"](**renamed(request))["click_probability"]
    assert got.shape == (ADS, 1) and np.std(got) > 1e-4
    np.testing.assert_allclose(got, model(repeated), rtol=0, atol=1e-6)
    # The context may also be each ad's own, and there may be one ad, or none.
    own = loaded.signatures["score_ads"](**renamed({**request, "hour": repeated["hour"]}))
    np.testing.assert_array_equal(own["click_probability"], got)
    sides = {name: f.side for f in SCHEMA.inputs for name in (f.name, f.weight_name)}
    for n in (1, 0):
        few = {key: v[:n] if sides[key] == "ad" else v for key, v in request.items()}
        answer = loaded.signatures["score_ads"](**renamed(few))["click_probability"]
        np.testing.assert_allclose(answer, got[:n], rtol=0, atol=1e-6)


def test_what_is_the_users_is_looked_up_once(store, tmp_path):
    """Of the graph: the behaviours' rows are gathered for one user, whatever the number of ads."""
    model = dicm(store)
    part = model.served_parts()["score_ads"]
    asked = []
    layer = model.image_embeddings["images"]
    call = layer.call
    layer.call = lambda ids, training=None: (asked.append(ids.shape[0]), call(ids, training))[1]
    request, _ = page_view()
    part.function(request)
    assert asked == [ADS + request["liked_images"].shape[1]]


def test_a_schema_without_a_side_has_no_page_view():
    schema = Schema((Field("user", "sparse", side="user", vocabulary_size=3), LABEL))
    assert build(EmbeddingMlp(schema, hidden=(2,)), schema).served_parts() == {}


LABEL = Field("click", "label")


@pytest.mark.parametrize(("kind", "dtype"), [("parquet", "float16"), ("hdf5", "float32")])
def test_a_table_beside_gives_what_the_one_inside_gives(store, tmp_path, kind, dtype):
    model = dicm(store, "attentive", CLICK_SCHEMA)
    path = tmp_path / "beside"
    description = export(model, CLICK_SCHEMA, path, table=kind, table_dtype=dtype)
    assert custom_ops(path) == []
    about = description["images"]["images"]
    assert about["file"] == {"parquet": "image_embeddings_images.parquet",
                             "hdf5": "image_embeddings_images.h5"}[kind]  # fmt: skip
    assert about["default"] == [0, 0, 0] and about["dtype"] == dtype
    file = path / "assets.extra" / about["file"]
    parts = list(image_tables.read_table(file))
    ids, embeddings = (np.concatenate(part) for part in zip(*parts, strict=True))
    want_ids, want = embed_store(model.image_embeddings["images"])
    np.testing.assert_array_equal(ids, want_ids)
    assert embeddings.dtype == dtype
    np.testing.assert_array_equal(embeddings, want.astype(dtype))
    # The table is not in the model.
    shapes = [shape for _, shape in tf.train.list_variables(str(path / "variables/variables"))]
    assert [30, 3] not in shapes
    # A ranking server looks up and sends; what it does not have are the default.
    table = dict(zip(ids.tolist(), embeddings.astype(np.float32), strict=True))
    batch = as_int64(tensors(random_batch(CLICK_SCHEMA, 6, 4)))
    batch["image"] = tf.tensor_scatter_nd_update(
        batch["image"], [[2]], tf.constant([999], tf.int64)
    )
    given = {}
    for name in ("image", "liked_images"):
        rows = [table.get(k, np.zeros(3, np.float32)) for k in batch[name].numpy().ravel()]
        given[embedding_name(name)] = tf.reshape(tf.stack(rows), [*batch[name].shape, 3])
    predict = tf.saved_model.load(str(path)).signatures["predict"]
    got = predict(**{
        input_names(CLICK_SCHEMA, ["image", "liked_images"])[key]: value
        for key, value in {**batch, **given}.items()
    })  # fmt: skip
    export(model, CLICK_SCHEMA, tmp_path / "inside", table_dtype=dtype, signatures=["predict"])
    inside = tf.saved_model.load(str(tmp_path / "inside")).signatures["predict"]
    same = inside(**{input_names(CLICK_SCHEMA)[key]: value for key, value in batch.items()})
    np.testing.assert_allclose(
        got["click_probability"], same["click_probability"], rtol=0, atol=1e-6
    )
    # All signatures, Examples with floats among them, in a process of TensorFlow alone.
    samples = write_dataset(tmp_path / "data")
    differences = check_export(
        path, model, CLICK_SCHEMA, first_records(samples, "test", 40), description["signatures"],
        beside=dtype, tolerance=TOLERANCE[dtype],
    )  # fmt: skip
    assert set(differences) == {"serving_default", "predict", "score_ads"}
    assert (max(differences.values()) > 1e-5) == (dtype == "float16")


def test_a_float16_table_is_half_as_large_and_close(store, tmp_path):
    model = dicm(store, schema=CLICK_SCHEMA)
    samples = write_dataset(tmp_path / "data")
    records = first_records(samples, "test", 40)
    description = export(model, CLICK_SCHEMA, tmp_path / "half", table_dtype="float16")
    differences = check_export(
        tmp_path / "half", model, CLICK_SCHEMA, records, description["signatures"],
        tolerance=TOLERANCE["float16"],
    )  # fmt: skip
    assert 1e-6 < differences["predict"] < 2e-3
    reader = tf.train.load_checkpoint(str(tmp_path / "half/variables/variables"))
    dtypes = reader.get_variable_to_dtype_map().values()
    assert tf.float16 in dtypes


def test_wrong_tables_are_refused(store, tmp_path):
    model = dicm(store)
    for arguments, message in (
        ({"table": "csv"}, "table is 'csv'; use one of inside, parquet, hdf5"),
        ({"table_dtype": "int8"}, "table_dtype is 'int8'; use one of float32, float16"),
    ):
        with pytest.raises(ExportError, match=message):
            export(model, SCHEMA, tmp_path / "model", **arguments)
    for weight in model.image_embeddings["images"].embedding_model.weights:
        weight.assign(100 * tf.ones_like(weight))
    with pytest.raises(ExportError, match="float16 cannot hold; use --table_dtype=float32"):
        export(model, SCHEMA, tmp_path / "model", table_dtype="float16")
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def versions(store, tmp_path_factory):
    """Two exports: later two images are new, one is gone, a user's row and the head have moved."""
    directory = tmp_path_factory.mktemp("versions")
    old, new = directory / "old", directory / "new"
    first = dicm(store)
    export(first, SCHEMA, old, signatures=["score_ads", "embed_images"])
    ids = np.concatenate([np.arange(1, 30), [100, 50]])
    features = np.concatenate([FEATURES[1:], FEATURES[:2] + 1])
    with ImageStoreWriter(directory / "more.h5", width=5) as writer:
        writer.write(ids, features)
    second = dicm(ImageStore.open(directory / "more.h5"))
    second.set_weights(first.get_weights())
    table = second.id_embedding.tables["user"].embeddings
    table.assign(tf.tensor_scatter_nd_add(table, [[4], [9]], tf.ones([2, 3])))
    second.head.weights[-1].assign_add(tf.ones_like(second.head.weights[-1]))
    export(second, SCHEMA, new, signatures=["score_ads", "embed_images"])
    return old, new


def state_of(loaded):
    return [variable.numpy() for variable in loaded.state]


def test_a_delta_applied_is_the_full_export(versions, tmp_path):
    old, new = versions
    summary = write_delta(old, new, tmp_path / "delta.h5")
    assert (summary.images_changed, summary.images_removed) == (2, 1)
    assert sorted(summary.rows.values()) == [1, 2]
    loaded, whole = (tf.saved_model.load(str(path)) for path in versions)
    score = loaded.signatures["score_ads"]
    request = page_view()[0]
    request["image"] = tf.constant([100, 0, 50, 1, 2, 3, -1], tf.int64)
    before = score(**renamed(request))["click_probability"].numpy()
    apply_delta(loaded, tmp_path / "delta.h5")
    for got, want in zip(state_of(loaded), state_of(whole), strict=True):
        np.testing.assert_array_equal(got, want)
    after = score(**renamed(request))["click_probability"].numpy()
    assert np.abs(after - before).min() > 1e-4
    want = whole.signatures["score_ads"](**renamed(request))["click_probability"]
    np.testing.assert_array_equal(after, want)
    with pytest.raises(ExportError, match="begins at another export than the one that is loaded"):
        apply_delta(loaded, tmp_path / "delta.h5")


def test_no_change_is_an_empty_delta(versions, tmp_path):
    old, _ = versions
    summary = write_delta(old, old, tmp_path / "delta.h5")
    assert (summary.rows, summary.images_changed, summary.images_removed) == ({}, 0, 0)
    loaded = tf.saved_model.load(str(old))
    before = state_of(loaded)
    apply_delta(loaded, tmp_path / "delta.h5")
    for got, want in zip(state_of(loaded), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_deltas_that_do_not_fit_are_refused(versions, store, tmp_path):
    old, new = versions
    export(build(EmbeddingMlp(SCHEMA), SCHEMA), SCHEMA, tmp_path / "ids")
    with pytest.raises(ExportError, match="have other variables; a delta is of two exports of one"):
        write_delta(old, tmp_path / "ids", tmp_path / "delta.h5")
    with pytest.raises(ExportError, match=r"nowhere/assets.extra/amstf.json is not the descr"):
        write_delta(tmp_path / "nowhere", new, tmp_path / "delta.h5")
    write_delta(old, new, tmp_path / "delta.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["delta.h5", "ids"]
    loaded = tf.saved_model.load(str(old))
    before = state_of(loaded)
    with pytest.raises(ExportError, match="it is a delta of another model"):
        apply_delta(tf.saved_model.load(str(tmp_path / "ids")), tmp_path / "delta.h5")
    with h5py.File(tmp_path / "delta.h5", "r+") as file:
        group = next(g for g in file.values() if "rows" in g)
        group["values"][0] = 7
    with pytest.raises(ExportError, match=r"delta\.h5 is damaged; copy or make it again"):
        apply_delta(loaded, tmp_path / "delta.h5")
    (tmp_path / "text.h5").write_text("no delta")
    with pytest.raises(ExportError, match=r"text\.h5 is no delta of an export"):
        apply_delta(loaded, tmp_path / "text.h5")
    for got, want in zip(state_of(loaded), before, strict=True):
        np.testing.assert_array_equal(got, want)
    description = json.loads((old / DESCRIPTION_FILE).read_text())
    assert len(description["variables"]) == len(before)
