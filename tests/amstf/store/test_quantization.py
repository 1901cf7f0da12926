import h5py
import numpy as np
import pytest
import tensorflow as tf

from amstf import ops
from amstf.errors import StoreError
from amstf.store import ImageStore, ImageStoreWriter
from amstf.store.quantization import dequantize, quantize


def write(path, ids, features, **options):
    with ImageStoreWriter(path, features.shape[1], "uint8", **options) as writer:
        for half in (slice(0, len(ids) // 2), slice(len(ids) // 2, None)):
            writer.write(ids[half], features[half])


def look_up(store, ids):
    handle = ops.image_store(store.files, store.width, tf.as_dtype(store.dtype))
    return ops.image_lookup(handle, tf.constant(ids, tf.int64), missing="zeros")[0].numpy()


def test_the_range_of_a_row_is_0_to_255():
    quantized, scales = quantize(np.array([[0, 51, 255], [-1, -1, -1], [2, 4.55, 3.0]]))
    assert quantized.tolist() == [[0, 51, 255], [0, 0, 0], [0, 255, 100]]
    np.testing.assert_allclose(scales, [[1, 0], [0, -1], [0.01, 2]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_error_is_at_most_half_a_scale_and_zeros_stay(rng, dtype):
    features = np.maximum(rng.normal(size=(50, 300)), 0).astype(dtype)
    quantized, scales = quantize(features)
    error = np.abs(dequantize(quantized, scales) - features)
    assert (error <= scales[:, :1] / 2 * 1.001).all() and error.max() > 0
    assert (dequantize(quantized, scales)[features == 0] == 0).all()
    again = quantize(dequantize(quantized, scales))
    np.testing.assert_array_equal(again[0], quantized)


# 5 and 13 are no whole vectors; 1,200 rows of 4,096 are read past the caches.
@pytest.mark.parametrize(("rows", "width", "files"), [(40, 5, 1), (700, 13, 3), (1200, 4096, 1)])
def test_the_op_reads_the_same_bits_as_numpy(tmp_path, rng, rows, width, files):
    ids = rng.permutation(4000)[:rows]
    features = rng.normal(size=(rows, width)).astype("f4") * rng.lognormal(size=(rows, 1))
    write(tmp_path / "i.h5", ids, features, num_files=files)
    store = ImageStore.open(str(tmp_path / "i*.h5"))
    assert store.dtype == "uint8"
    store.validate()
    np.testing.assert_array_equal(store.read(ids), dequantize(*quantize(features)))
    np.testing.assert_array_equal(look_up(store, ids), store.read(ids))
    assert not look_up(store, [4001, -1]).any()


def test_rows_are_copied_bit_by_bit(tmp_path, rng):
    write(tmp_path / "a.h5", np.arange(10), rng.normal(size=(10, 6)) + 1e6)
    (file,) = ImageStore.open(tmp_path / "a.h5").files
    with ImageStoreWriter(tmp_path / "b.h5", 6, "uint8") as writer:
        writer.copy(file, np.array([7, 2]))
    copy = ImageStore.open(tmp_path / "b.h5")
    np.testing.assert_array_equal(copy.read([7, 2]), file.read(np.array([7, 2])))
    with ImageStoreWriter(tmp_path / "c.h5", 6, "float32") as writer:
        writer.copy(file, np.arange(10))
    np.testing.assert_array_equal(
        ImageStore.open(tmp_path / "c.h5").read(np.arange(10)), file.read(slice(0, 10))
    )


def test_a_chunked_store_is_copied_with_its_scales(tmp_path, rng):
    quantized, scales = quantize(rng.normal(size=(9, 4)))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["ids"] = np.arange(9)
        file.create_dataset("features", data=quantized, chunks=(2, 4), compression="gzip")
        file["scales"] = scales
    store = ImageStore.open(tmp_path / "c.h5")
    assert store.dtype == "uint8" and store.paths[0].endswith("c.mappable.h5")
    np.testing.assert_allclose(
        store.read(np.arange(9)), dequantize(quantized, scales), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        (None, "wanted whole numbers and floats, or uint8 with a dataset 'scales'"),
        (np.zeros((3, 1), "f4"), r"scales are float32 \[3, 1\]; wanted float32 \[3, 2\]"),
        (np.zeros((3, 2), "i4"), "scales are int32"),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path, scales, words):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["ids"], file["features"] = np.arange(3), np.zeros((3, 4), "u1")
        if scales is not None:
            file["scales"] = scales
    with pytest.raises(StoreError, match=words):
        ImageStore.open(tmp_path / "b.h5")


def test_ids_that_are_no_whole_numbers_are_refused(tmp_path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["ids"], file["features"] = np.arange(3.0), np.zeros((3, 4), "u1")
        file["scales"] = np.zeros((3, 2), "f4")
    with pytest.raises(StoreError, match="ids are float64 and features uint8; wanted whole"):
        ImageStore.open(tmp_path / "b.h5")


def test_a_scale_that_is_not_finite_is_named(tmp_path):
    write(tmp_path / "i.h5", np.arange(4), np.arange(20.0).reshape(4, 5))
    with h5py.File(tmp_path / "i.h5", "r+") as file:
        file["scales"][2, 0] = np.nan
    store = ImageStore.open(tmp_path / "i.h5")
    with pytest.raises(StoreError, match="row 2, image id 2"):
        store.validate()
    with pytest.raises(tf.errors.DataLossError, match="the features of image id 2"):
        look_up(store, [2])


def test_a_row_beyond_float32_is_refused(tmp_path):
    with (
        pytest.raises(StoreError, match="image id 4 has a feature beyond the range of uint8"),
        ImageStoreWriter(tmp_path / "i.h5", 2, "uint8") as writer,
    ):
        writer.write([4], np.array([[-3e38, 3e38]]))


def test_each_dataset_has_a_checksum(tmp_path):
    write(tmp_path / "i.h5", np.arange(4), np.arange(20.0).reshape(4, 5))
    with h5py.File(tmp_path / "i.h5") as file:
        assert all(len(file[name].attrs["crc32"]) == 8 for name in ("ids", "features", "scales"))
