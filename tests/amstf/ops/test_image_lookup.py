import os

import h5py
import numpy as np
import pytest
import tensorflow as tf

from amstf import ops
from amstf.store import ImageStore, ImageStoreWriter, server_of

MISSING = 10**9


def open_on(store, num_servers=1, server=0):
    return ops.image_store(store.files, store.width, tf.as_dtype(store.dtype), num_servers, server)


def with_h5py(store, ids):
    """What h5py itself reads, zeros for "no image"."""
    rows = {}
    for path in store.paths:
        with h5py.File(path) as file:
            rows.update(zip(file["ids"][:].tolist(), file["features"][:], strict=True))
    none = np.zeros(store.width, "f4")
    features = [rows.get(int(i), none) for i in ids]
    return np.array(features, "f4").reshape(-1, store.width)


@pytest.mark.parametrize("num_files", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 5, 8, 1027])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 33, 1000])
def test_reads_what_h5py_reads(make_store, n, width, dtype, num_files):
    store = make_store(50, width, dtype, num_files)
    rng = np.random.default_rng(n)
    ids = rng.choice(np.append(store.ids, [-1, -77, MISSING]), n)
    features, found = ops.image_lookup(open_on(store), tf.constant(ids, tf.int64), "zeros")
    assert features.dtype == tf.float32 and features.shape == (n, width)
    np.testing.assert_array_equal(features, with_h5py(store, ids))
    np.testing.assert_array_equal(found, (ids >= 0) & (ids != MISSING))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [4096, 4095])
def test_large_lookups_which_are_written_past_the_caches(make_store, dtype, width):
    store = make_store(300, width, dtype)
    ids = np.random.default_rng(1).choice(np.append(store.ids, -1), 1501)
    features, _ = ops.image_lookup(open_on(store), tf.constant(ids))
    assert features.numpy().nbytes > 16 << 20
    np.testing.assert_array_equal(features, with_h5py(store, ids))


@pytest.mark.parametrize("num_servers", [2, 3, 1024])
def test_each_server_reads_its_share(make_store, num_servers):
    store = make_store(200)
    images = 0
    for server in {0, 1, num_servers - 1}:
        handle = open_on(store, num_servers, server)
        ids = store.ids[server_of(store.ids, num_servers) == server]
        features, found = ops.image_lookup(handle, tf.constant(ids))
        np.testing.assert_array_equal(features, with_h5py(store, ids))
        assert found.numpy().all()
        images += int(ops.image_store_counters(handle)[0])
    assert images == 200 or num_servers == 1024


def test_the_wrong_server_says_so(make_store):
    store = make_store()
    foreign = store.ids[server_of(store.ids, 2) == 1][:1]
    message = rf"image id {foreign[0]} belongs to server 1 of 2, server 0 was asked"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.image_lookup(open_on(store, 2, 0), tf.constant(foreign))
    with pytest.raises(tf.errors.InvalidArgumentError, match="server must be 0 to 1, got 2"):
        open_on(store, 2, 2)


def test_an_empty_store(tmp_path):
    with ImageStoreWriter(tmp_path / "i.h5", 4):
        pass
    handle = open_on(ImageStore.open(tmp_path / "i.h5"))
    features, found = ops.image_lookup(handle, tf.constant([-1, 5], tf.int64), "zeros")
    assert features.shape == (2, 4) and not found.numpy().any()


def test_a_function_with_unknown_shape_knows_rank_and_width(make_store):
    store = make_store(width=6)
    seen = []

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int64)])
    def read(ids):
        features, found = ops.image_lookup(open_on(store), ids)
        seen.append((features.shape.as_list(), found.shape.as_list()))
        return features

    for n in (0, 1, 20):
        np.testing.assert_array_equal(
            read(tf.constant(store.ids[:n])), with_h5py(store, store.ids[:n])
        )
    assert seen == [([None, 6], [None])]
    for ids in (store.ids[0], store.ids[:4].reshape(2, 2)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="ids must be a vector, got shape"):
            read(tf.constant(ids))


@pytest.mark.parametrize("ids", [5, [[1, 2]]])
def test_wrong_rank_is_refused(make_store, ids):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"vector|rank 1"):
        ops.image_lookup(open_on(make_store()), tf.constant(ids, tf.int64))
    with pytest.raises(ValueError, match="rank 1"):
        tf.function(lambda: ops.image_lookup(open_on(make_store()), tf.constant(ids, tf.int64)))()


def test_missing_images_are_named(make_store):
    store = make_store()
    handle = open_on(store)

    def error_of(ids):
        with pytest.raises(tf.errors.NotFoundError) as error:
            ops.image_lookup(handle, tf.constant(ids, tf.int64))
        return error.value.message

    known = int(store.ids[0])
    message = error_of([known, 1001, -1, 1001, 1000])
    assert "3 of 5 image ids are not in the image store" in message and store.paths[0] in message
    assert ": 1001, 1000; add these images" in message, message
    assert ": 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, ...;" in error_of(range(1000, 1009))
    assert "1006, 1007;" in error_of(range(1000, 1008))
    with pytest.raises(tf.errors.NotFoundError, match="1000"):
        tf.function(lambda: ops.image_lookup(handle, tf.constant([1000], tf.int64)))()
    with pytest.raises(ValueError, match="missing is 'ignore'; use one of error, zeros"):
        ops.image_lookup(handle, tf.constant([1], tf.int64), "ignore")


def test_counters_count(make_store):
    store = make_store()
    handle = open_on(store)
    ids = [int(store.ids[0]), -1, 1001, 1001]
    ops.image_lookup(handle, tf.constant(ids, tf.int64), "zeros")
    ops.image_lookup(handle, tf.constant(store.ids))
    counted = dict(zip(ops.COUNTER_NAMES, ops.image_store_counters(handle).numpy(), strict=True))
    assert counted.pop("lookup_nanoseconds") > 0
    assert counted == {"images": 50, "lookups": 2, "ids_looked_up": 53, "ids_missing": 2}
    # The same files give the same store, others another.
    assert ops.image_store_counters(open_on(ImageStore.open(store.paths)))[1] == 2
    assert ops.image_store_counters(open_on(make_store(name="other.h5")))[1] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named_at_lookup(tmp_path, bad):
    features = np.ones((4, 3000), "f4")
    features[2, 2999] = bad
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["ids"] = [5, 6, 7, 8]
        file["features"] = features
    handle = open_on(ImageStore.open(tmp_path / "foreign.h5"))
    ops.image_lookup(handle, tf.constant([5, 6, 8], tf.int64))
    with pytest.raises(tf.errors.DataLossError, match=r"features of image id 7 in .*foreign.h5"):
        ops.image_lookup(handle, tf.constant([5, 6, 7, 8] * 500, tf.int64))


def test_a_file_that_changed_between_open_and_use_is_refused(make_store):
    store = make_store(5000)
    path = store.paths[0]
    os.truncate(path, store.files[0].bytes - 4096)
    with pytest.raises(tf.errors.DataLossError, match=r"bytes, expected .* cut or replaced"):
        open_on(store)
    os.truncate(path, store.files[0].bytes)
    with open(path, "r+b") as file:
        file.write(b"not HDF5")
    with pytest.raises(tf.errors.DataLossError, match="is not an HDF5 file"):
        open_on(store)
    os.remove(path)
    with pytest.raises(tf.errors.NotFoundError, match=r"cannot open .* under this path"):
        open_on(store)


def test_a_replaced_file_of_the_same_size_is_another_store(tmp_path):
    """A notebook that writes its features again must not go on reading the old ones."""
    path = tmp_path / "i.h5"
    for value in (1.0, 2.0):
        with ImageStoreWriter(path, 2) as writer:
            writer.write([4, 9], [[value, value], [3, 3]])
        store = ImageStore.open(path)
        features, _ = ops.image_lookup(open_on(store), tf.constant([4], tf.int64))
        assert features.numpy().tolist() == [[value, value]]


def test_many_functions_read_at_once(make_store):
    store = make_store(500, 64)
    read = tf.function(lambda ids: ops.image_lookup(open_on(store), ids)[0])
    ids = np.random.default_rng(0).choice(store.ids, (40, 77))
    features = tf.data.Dataset.from_tensor_slices(ids).map(read, num_parallel_calls=8)
    for wanted, got in zip(ids, features, strict=True):
        np.testing.assert_array_equal(got, with_h5py(store, wanted))


def test_no_gradient_flows_into_ids(make_store):
    store = make_store()
    with tf.GradientTape() as tape:
        scale = tf.Variable(2.0)
        features, _ = ops.image_lookup(open_on(store), tf.constant(store.ids[:3]))
        loss = tf.reduce_sum(scale * features)
    expected = with_h5py(store, store.ids[:3]).sum()
    np.testing.assert_allclose(tape.gradient(loss, scale), expected, rtol=1e-5)
