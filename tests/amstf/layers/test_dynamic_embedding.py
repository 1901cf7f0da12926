"""DynamicEmbedding in one process: by hand, against Keras' Embedding and Keras' optimizers."""

import gc
import json
import pathlib
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf import ops, optimizers
from amstf.dynamic import Admission, TableLimit
from amstf.errors import ConfigError
from amstf.layers import DynamicEmbedding, EvictRows
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("dynamic_embedding_chief.py")
IDS = np.arange(12) * 7919 - 40_000  # What an Embedding calls 0 to 11.


def ids_of(values):
    return tf.constant(values, tf.int64)


def rows_of(layer, ids):
    """Weights, without seeing the ids."""
    return layer.table.lookup(ids_of(ids), training=False).numpy()


def with_rows(rows, **options):
    """A layer whose ids 0 to n-1 have these rows."""
    rows = np.asarray(rows, np.float32)
    layer = DynamicEmbedding(rows.shape[1], initializer="zeros", **options)
    ids = tf.range(len(rows), dtype=tf.int64)
    layer(ids[:, tf.newaxis], training=True)
    layer.table.apply(tf.IndexedSlices(tf.constant(-rows), ids), "sgd", [1.0], 1)
    return layer


ROWS = [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]


@pytest.mark.parametrize(
    ("combiner", "weights", "wanted"),
    [
        ("sum", None, [[3, 30], [4, 40], [0, 0]]),
        ("mean", None, [[1.5, 15], [4, 40], [0, 0]]),
        ("sqrtn", None, [[3 / 2**0.5, 30 / 2**0.5], [4, 40], [0, 0]]),
        ("sum", [[3, 1, 9], [0.5, 9, 9], [9, 9, 9]], [[5, 50], [2, 20], [0, 0]]),
        ("mean", [[3, 1, 9], [0.5, 9, 9], [9, 9, 9]], [[1.25, 12.5], [4, 40], [0, 0]]),
        ("sqrtn", [[3, 4, 9], [0.5, 9, 9], [9, 9, 9]], [[2.2, 22], [4, 40], [0, 0]]),
    ],
)
def test_combiners_by_hand(combiner, weights, wanted):
    layer = with_rows(ROWS, combiner=combiner)
    ids = ids_of([[0, 1, -1], [2, -1, -1], [-1, -1, -1]])
    given = None if weights is None else tf.constant(weights)
    np.testing.assert_allclose(layer(ids, weights=given), wanted, rtol=1e-6)
    ragged = tf.RaggedTensor.from_tensor(ids, padding=-1)
    if given is not None:
        given = tf.ragged.boolean_mask(given, ids >= 0)
    np.testing.assert_allclose(layer(ragged, weights=given), wanted, rtol=1e-6)
    np.testing.assert_allclose(layer(ids[:1], weights=weights and weights[:1]), wanted[:1])


def test_ids_of_any_shape_and_type():
    layer = with_rows(ROWS)
    for ids in (2, [2], [[0, 2], [-1, 99]], np.zeros([2, 0, 3]), np.arange(3).reshape(1, 3, 1)):
        known = [[0.0, 0.0], *ROWS]
        wanted = [known[i + 1] if i <= 2 else [0, 0] for i in np.ravel(ids).astype(int)]
        for dtype in (tf.int64, tf.int32):
            got = layer(tf.constant(ids, dtype))
            assert got.shape == (*np.shape(ids), 2)
            np.testing.assert_array_equal(got, np.reshape(wanted, got.shape))
    nested = tf.ragged.constant([[[0], []], [[2, 1]]], dtype=tf.int64)
    assert layer(nested).to_list() == [[[ROWS[0]], []], [[ROWS[2], ROWS[1]]]]


def test_strings_are_hashed_and_empty_ones_are_none():
    layer = DynamicEmbedding(2, combiner="sum", seed=1)
    got = layer(tf.constant([["red", ""], ["", ""], ["red", "blue"]]), training=True).numpy()
    assert layer.table.counters()["rows"] == 2
    hashed = tf.strings.to_hash_bucket_fast(["red", "blue"], 2**63 - 1)
    red, blue = rows_of(layer, hashed)
    np.testing.assert_allclose(got, [red, [0, 0], red + blue], rtol=1e-6)


def test_forward_and_gradient_equal_an_embedding():
    layer = DynamicEmbedding(3, seed=4)
    ids = np.random.default_rng(0).integers(0, 12, (6, 5))
    layer(ids_of(IDS[ids]), training=True)
    embedding = keras.layers.Embedding(12, 3)
    embedding.build(None)
    embedding.set_weights([rows_of(layer, IDS)])
    factor = tf.random.stateless_normal([6, 5, 3], [1, 2])

    @tf.function
    def run(layer, ids, variable):
        with tf.GradientTape() as tape:
            rows = layer(ids, training=True)
            loss = tf.reduce_sum(rows**2 * factor)
        return rows, tape.gradient(loss, variable)

    rows, gradient = run(layer, ids_of(IDS[ids]), layer.anchor)
    wanted_rows, wanted = run(embedding, ids_of(ids), embedding.embeddings)
    np.testing.assert_array_equal(rows, wanted_rows)
    wanted = tf.convert_to_tensor(wanted).numpy()
    places = [int(np.flatnonzero(i == IDS)[0]) for i in gradient.indices.numpy()]
    assert len(set(places)) == len(places), "each id once"
    np.testing.assert_allclose(gradient.values, wanted[places], rtol=1e-5, atol=1e-6)


def dense_twin(layer):
    """What a layer computes for [B, 12] ids, as a matrix product with its rows."""
    network = keras.Sequential([keras.Input([12]), keras.layers.Dense(3, use_bias=False)])
    network.set_weights([rows_of(layer, IDS)])
    return network


@pytest.mark.parametrize(
    ("ours", "keras_own"),
    [
        (optimizers.SGD, keras.optimizers.SGD),
        (optimizers.Adagrad, keras.optimizers.Adagrad),
        (optimizers.Adam, keras.optimizers.Adam),
        (optimizers.Ftrl, keras.optimizers.Ftrl),
    ],
    ids=["sgd", "adagrad", "adam", "ftrl"],
)
def test_training_equals_keras_optimizers_with_a_schedule(ours, keras_own):
    # Every batch has every id: only there Keras' Adam is the lazy one.
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.8)
    options = {"l1_regularization_strength": 0.01, "l2_regularization_strength": 0.1, "beta": 0.1}
    options = options if keras_own is keras.optimizers.Ftrl else {}
    layer = DynamicEmbedding(3, combiner="sum", initializer="uniform", seed=2)
    layer(ids_of(IDS[np.newaxis]), training=True)
    model = keras.Sequential([keras.Input([12], dtype=tf.int64), layer])
    twin = dense_twin(layer)
    model.compile(ours(schedule, clipnorm=2.0, **options), "mse")
    twin.compile(keras_own(schedule, clipnorm=2.0, jit_compile=False, **options), "mse")
    rng = np.random.default_rng(0)
    for _ in range(6):
        times = rng.multinomial(12, np.ones(12) / 12, 8)
        times[0] = 1
        labels = rng.normal(size=(8, 3))
        ids = np.array([np.repeat(IDS, one) for one in times])
        losses = [
            model.train_on_batch(ids_of(ids), labels),
            twin.train_on_batch(times.astype("f4"), labels),
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    np.testing.assert_allclose(rows_of(layer, IDS), twin.get_weights()[0], rtol=2e-4, atol=2e-5)


def test_only_rows_of_the_batch_change():
    layer = with_rows(ROWS, combiner="sum")
    model = keras.Sequential([keras.Input([2], dtype=tf.int64), layer])
    model.compile(optimizers.SGD(0.5), lambda labels, outputs: tf.reduce_sum(outputs, -1))
    model.train_on_batch(ids_of([[0, 2], [2, -1]]), np.zeros([2, 1]))
    # The mean loss of two samples: a gradient of a half for each time that an id occurs.
    np.testing.assert_allclose(rows_of(layer, [0, 1, 2]), [[0.75, 9.75], [2, 20], [3.5, 39.5]])
    before = layer.table.counters()
    model.predict(ids_of([[0, 5]]), verbose=0)
    model.evaluate(ids_of([[0, 5]]), np.zeros([1, 1]), verbose=0)
    after = layer.table.counters()
    for name in ("rows", "clock", "rows_updated", "rows_admitted", "ids_refused"):
        assert after[name] == before[name], "reading changes nothing"
    layer.trainable = False
    model.compile(optimizers.SGD(0.5), "mse")
    model.train_on_batch(ids_of([[0, 2]]), np.ones([1, 2]))
    np.testing.assert_allclose(rows_of(layer, [0]), [[0.75, 9.75]])


def test_rows_of_one_table_used_twice_get_the_sum():
    layer = with_rows(ROWS)
    one, other = keras.Input([], dtype=tf.int64), keras.Input([], dtype=tf.int64)
    model = keras.Model([one, other], layer(one) + 3 * layer(other))
    model.compile(optimizers.SGD(1.0), lambda labels, outputs: tf.reduce_sum(outputs, -1))
    model.train_on_batch([ids_of([0]), ids_of([0])], np.zeros([1, 1]))
    np.testing.assert_allclose(rows_of(layer, [0]), [[-3.0, 6.0]])


def test_the_regularizer_sees_each_row_of_the_batch_once():
    layer = with_rows(ROWS, embeddings_regularizer=keras.regularizers.L2(0.5))
    with tf.GradientTape() as tape:
        layer(ids_of([[1, 1, -1, 1]]), training=True)
        (loss,) = layer.losses
    assert loss.numpy() == 0.5 * (2**2 + 20**2)
    gradient = tape.gradient(loss, layer.anchor)
    assert gradient.indices.numpy().tolist() == [1, -1]
    np.testing.assert_allclose(gradient.values / 0.5 / 2, [[2.0, 20.0], [0, 0]])
    layer(ids_of([[1]]), training=False)
    assert not layer.losses


def test_ids_that_are_not_admitted_train_nothing():
    layer = DynamicEmbedding(1, initializer="ones", admission=Admission(after=2))
    model = keras.Sequential([keras.Input([1], dtype=tf.int64), layer, keras.layers.Flatten()])
    model.compile(optimizers.SGD(0.1), lambda labels, outputs: tf.reduce_sum(outputs, -1))
    model.train_on_batch(ids_of([[5], [6], [6]]), np.zeros([3, 1]))
    np.testing.assert_allclose(rows_of(layer, [5, 6]), [[0], [1 - 0.1 * 2 / 3]], rtol=1e-6)
    counters = layer.table.counters()
    assert counters["gradients_dropped"] == counters["ids_refused"] == 1
    assert layer.table.evict("least_recent", 0) == 1
    initial = DynamicEmbedding(1, initializer="ones", without_row="initial")
    assert initial(ids_of([5])).numpy() == [[1]] and initial.table.counters()["rows"] == 0


def test_keras_own_optimizers_fail():
    model = keras.Sequential([keras.Input([2], dtype=tf.int64), DynamicEmbedding(1, "sum")])
    model.compile(keras.optimizers.Adam(), "mse")
    with pytest.raises(ValueError, match="Shapes must be equal rank"):
        model.train_on_batch(ids_of([[0, 2]]), np.ones([1, 1]))


def test_rows_are_evicted_between_epochs():
    layer = DynamicEmbedding(1, "sum")
    # Inside of another layer, where a model finds it too.
    model = keras.Sequential(
        [keras.Input([2], dtype=tf.int64), keras.Sequential([layer]), keras.layers.Dense(1)]
    )
    model.compile(optimizers.SGD(0.1), "mse")
    layer(tf.range(100, dtype=tf.int64)[:, tf.newaxis], training=True)
    old, none = EvictRows("unseen_steps", 2, every=2), EvictRows("unseen_seconds", 3600)
    ids = ids_of([[0, 1], [1, 2]])
    history = model.fit(ids, np.ones([2, 1]), epochs=3, verbose=0, callbacks=[old, none])
    # The first 100 were seen in step 1; epochs end with steps 2, 3 and 4.
    assert history.history["rows_evicted"] == [0, 97, 0]
    assert (old.evicted, none.evicted) == (97, 0)
    assert layer.table.counters()["rows"] == 3


def small_model(width=3):
    layer = DynamicEmbedding(width, combiner="mean", seed=5)
    model = keras.Sequential([keras.Input([4], dtype=tf.int64), layer, keras.layers.Dense(1)])
    model.compile(optimizers.Adam(0.05), "mse")
    return layer, model


def fit(model, epochs):
    keras.utils.set_random_seed(0)
    ids = np.random.default_rng(0).integers(0, 50, (64, 4)) * 10**12
    labels = np.random.default_rng(1).normal(size=(64, 1))
    model.fit(ids, labels, batch_size=16, epochs=epochs, shuffle=False, verbose=0)


def test_a_checkpoint_goes_on_exactly(tmp_path):
    straight_layer, straight = small_model()
    keras.utils.set_random_seed(0)
    start = straight.get_weights()
    fit(straight, 3)
    _, first = small_model()
    first.set_weights(start)
    fit(first, 2)
    path = tf.train.Checkpoint(model=first, optimizer=first.optimizer).save(tmp_path / "c")
    layer, second = small_model()
    layer(ids_of([[123]]), training=True)  # Restoring forgets it.
    second.optimizer.build(second.trainable_variables)
    tf.train.Checkpoint(model=second, optimizer=second.optimizer).restore(path).assert_consumed()
    assert layer.table.counters()["rows"] == straight_layer.table.counters()["rows"]
    assert layer.table.counters()["clock"] == 8
    fit(second, 1)
    ids = np.arange(50) * 10**12
    np.testing.assert_array_equal(rows_of(layer, ids), rows_of(straight_layer, ids))
    assert not list(tmp_path.glob("*DynamicTable*")), "no file but the checkpoint's own"


def test_a_checkpoint_of_another_width_is_refused(tmp_path):
    path = tf.train.Checkpoint(ids=DynamicEmbedding(3)).save(tmp_path / "c")
    with pytest.raises(ConfigError, match=r"has rows of 3 floats .* which has a width of 4"):
        tf.train.Checkpoint(ids=DynamicEmbedding(4)).restore(path)


def test_a_table_ends_with_its_layer():
    layer = DynamicEmbedding(4)
    layer(tf.range(100_000, dtype=tf.int64), training=True)
    table, gone = layer.table, weakref.ref(layer.table)
    name, attributes = table._name, table.options.attributes()
    del layer, table
    gc.collect()
    assert gone() is None
    left = ops.dynamic_table(**attributes, shared_name=name)
    assert ops.dynamic_counters(left)[0] == 0


def test_configuration_round_trip():
    layer = DynamicEmbedding(
        4,
        "mean",
        initializer=keras.initializers.RandomNormal(1.0, 2.0),
        seed=3,
        admission=Admission(after=2, filter_bytes=100),
        without_row="initial",
        limit=TableLimit(rows=9, when_full="refuse"),
        embeddings_regularizer="l2",
        name="ids",
    )
    copy = keras.layers.deserialize(json.loads(json.dumps(keras.layers.serialize(layer))))
    assert copy.get_config() == layer.get_config()
    assert copy.options.attributes() == layer.options.attributes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicEmbedding(0), "width is 0; wanted 1 to 65536"),
        (lambda: DynamicEmbedding(2, "max"), "combiner is 'max'; use sum, mean, sqrtn"),
        (lambda: DynamicEmbedding(2, initializer="glorot_uniform"), "is GlorotUniform, which rows"),
        (lambda: DynamicEmbedding(2, seed=2**63), "wanted a 64-bit number"),
        (lambda: DynamicEmbedding(2, without_row="error"), "without_row is 'error'"),
        (lambda: DynamicEmbedding(2, admission=3), "wanted an amstf.Admission"),
        (lambda: Admission(after=0), "after is 0; wanted 1 to 255"),
        (lambda: Admission(probability=0), "probability is 0"),
        (lambda: Admission(filter_bytes=0), "filter_bytes is 0"),
        (lambda: TableLimit(rows=0), "rows is 0; wanted a number >= 1"),
        (lambda: TableLimit(when_full="fifo"), "when_full is 'fifo'"),
        (lambda: DynamicEmbedding(2)(ids_of([1]), weights=[1.0]), "weights are for a combiner"),
        (lambda: DynamicEmbedding(2, "sum")(ids_of(1)), "a combiner takes ids"),
        (lambda: DynamicEmbedding(2, "sum")(ids_of([[1]]), weights=[[1.0, 2.0]]), "wanted that of"),
        (lambda: DynamicEmbedding(2).table.evict("old", 1), "policy is 'old'; use unseen_steps"),
        (lambda: DynamicEmbedding(2).table.evict("least_recent", -1), "limit is -1"),
        (lambda: EvictRows("old", 1), "policy is 'old'; use unseen_seconds, unseen_steps"),
        (lambda: EvictRows("small_norm", -1), "limit is -1"),
        (lambda: EvictRows("small_norm", 1, every=0), "every is 0"),
        (lambda: optimizers.SGD(momentum=0.9), "momentum is not supported"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.slow
def test_on_a_cluster_as_in_one_process(tmp_path):
    """See the chief: 2 workers, 3 servers; here are the local sides of both comparisons."""
    layer, model = small_model()
    fit(model, 2)
    saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "local")
    arguments = (str(saved), str(tmp_path / "cluster"))
    chief = run_on_cluster(CHIEF, workers=2, servers=3, timeout=240, arguments=arguments)
    assert chief.returncode == 0, chief
    assert not chief.stderr.strip(), chief
    report = json.loads(chief.stdout)
    for name, worst in report["worst"].items():
        assert worst < 1e-6, (name, report)
    assert report["rows_by_server"] and min(report["rows_by_server"]) > 5, report
    assert report["async"] == [-60.0], report
    assert report["sync"] == [-20.0], report
    assert report["sights"] == [40, 40, 40], report
    assert report["increments"] == {"evicted": 15, "rows": [45, 45], "worst": 0}, report
    # What three servers wrote goes into one process.
    copy_layer, copy = small_model()
    tf.train.Checkpoint(model=copy).restore(str(tmp_path / "cluster")).expect_partial()
    ids = np.arange(50) * 10**12
    assert copy_layer.table.counters()["rows"] == layer.table.counters()["rows"]
    np.testing.assert_allclose(rows_of(copy_layer, ids), rows_of(layer, ids), atol=1e-6)
