import os
import shutil

import h5py
import numpy as np
import pytest

from amstf.errors import MissingImageError, StoreError
from amstf.store import ImageStore, ImageStoreWriter, image_store


def raw_store(path, ids, features):
    """A file as others write it."""
    with h5py.File(path, "w") as file:
        file["ids"] = ids
        file["features"] = features
    return path


def test_reads_rows_in_the_order_asked(write):
    path, ids, features = write(attributes={"backbone": "vgg16", "pixels": 224})
    store = ImageStore.open(path)
    assert (len(store), store.width, store.dtype) == (40, 3, "float32")
    assert store.paths == [str(path)] and sorted(store.ids) == sorted(ids)
    assert store.attributes["backbone"] == "vgg16" and store.attributes["pixels"] == 224
    order = [3, 0, 3, 39]
    np.testing.assert_array_equal(store.read(ids[order]), features[order])
    assert store.read(ids).dtype == np.float32
    assert str(path) in repr(store) and "40 images of 3 float32" in repr(store)


def test_missing_images_are_named(write):
    path, ids, _ = write()
    store = ImageStore.open(path)
    assert store.missing([ids[0], 10_007, -1, 10_001, 10_007]).tolist() == [10_001, 10_007]
    with pytest.raises(MissingImageError, match=r"2 image ids are not in .*: 10001, 10007$"):
        store.read([10_007, ids[0], 10_001, 10_007])
    with pytest.raises(MissingImageError, match=r"20 image ids .* 10007, \.\.\.$"):
        store.read(range(10_000, 10_020))


@pytest.mark.parametrize("kind", ["list", "pattern"])
def test_several_files_are_one_store(tmp_path, write, kind):
    paths, ids, features = zip(
        *(write(30, 3, f"part-{i}.h5", first_id=i * 1000) for i in range(3)), strict=True
    )
    store = ImageStore.open(list(paths) if kind == "list" else tmp_path / "part-[0-9].h5")
    order = np.random.default_rng(1).permutation(90)
    np.testing.assert_array_equal(
        store.read(np.concatenate(ids)[order]), np.concatenate(features)[order]
    )


def test_a_name_with_brackets_is_a_name(tmp_path, write):
    path, _, _ = write(name="run[1].h5")
    assert len(ImageStore.open(path)) == len(ImageStore.open(str(path))) == 40


def test_what_is_no_store_is_refused(tmp_path, write):
    path, _, _ = write(1000, 8)
    bad = tmp_path / "bad.h5"

    def refused(message, paths=bad):
        with pytest.raises(StoreError, match=message):
            ImageStore.open(paths)

    refused("does not exist")
    refused("paths is empty", [])
    refused("no file matches", str(tmp_path / "nothing-*.h5"))
    bad.write_bytes(b"")
    refused("is not a readable HDF5 file")
    bad.write_bytes(b"id,feature\n" * 1000)
    refused("is not a readable HDF5 file")
    shutil.copy(path, bad)
    with open(bad, "r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    refused("bad.h5 was cut")
    with h5py.File(bad, "w") as file:
        file["embeddings"] = [1.0]
    refused(r"has no dataset 'ids' \(it has: embeddings\)")
    with h5py.File(bad, "w") as file:
        file["ids"] = [1]
        file.create_group("features")
    refused("has no dataset 'features'")


@pytest.mark.parametrize(
    "ids, features, message",
    [
        ([1, 2], np.ones((3, 2)), r"ids have shape \(2,\) and features \(3, 2\)"),
        ([1, 2], np.ones(2), "wanted .n. and .n, F."),
        ([1, 2], np.ones((2, 2, 2)), "wanted .n. and .n, F."),
        ([1, 2], np.ones((2, 0)), "wanted .n. and .n, F."),
        ([[1], [2]], np.ones((2, 2)), "wanted .n. and .n, F."),
        (1, np.ones((1, 2)), "wanted .n. and .n, F."),
        ([1.0, 2.0], np.ones((2, 2)), "ids are float64 .* wanted whole numbers"),
        ([1, 2], np.ones((2, 2), "i8"), "features int64; wanted whole numbers and floats"),
        ([b"a", b"b"], np.ones((2, 2)), "wanted whole numbers"),
        ([5, -7], np.ones((2, 2), "f4"), "bad.h5.* has the negative image id -7"),
        ([5, 7, 5], np.ones((3, 2), "f4"), r"image id 5 stands twice: .*bad.h5 row 0 and .* row 2"),
        (np.array([2**63 + 1, 1], "u8"), np.ones((2, 2), "f4"), "must not be negative"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(tmp_path, ids, features, message):
    with pytest.raises(StoreError, match=message):
        ImageStore.open(raw_store(tmp_path / "bad.h5", ids, features))


def test_lists_of_any_length_are_no_features(tmp_path):
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["ids"] = [1, 2]
        features = file.create_dataset("features", (2, 1), h5py.vlen_dtype("f4"))
        features[0, 0], features[1, 0] = [1.0, 2.0], [3.0]
    with pytest.raises(StoreError, match="features object; wanted whole numbers and floats"):
        ImageStore.open(tmp_path / "bad.h5")


@pytest.mark.parametrize("kind", ["external", "virtual", "link"])
def test_values_in_another_file_are_refused(tmp_path, write, kind):
    path, ids, features = write()
    (tmp_path / "raw").write_bytes(features.tobytes())
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["ids"] = ids
        if kind == "external":
            file.create_dataset(
                "features", (40, 3), "f4", external=[(str(tmp_path / "raw"), 0, features.nbytes)]
            )
        elif kind == "virtual":
            layout = h5py.VirtualLayout((40, 3), "f4")
            layout[:] = h5py.VirtualSource(path, "features", (40, 3))
            file.create_virtual_dataset("features", layout)
        else:
            file["features"] = h5py.ExternalLink(path, "features")
    with pytest.raises(StoreError, match=r"the values of /features are in another file"):
        ImageStore.open(tmp_path / "bad.h5")


def test_files_of_one_store_must_be_alike(write):
    one = write(3, 4, "one.h5")[0]
    with pytest.raises(StoreError, match=r"3 features of float32, .* holds 4 of float32"):
        ImageStore.open([one, write(3, 3, "two.h5", 100)[0]])
    with pytest.raises(StoreError, match="4 features of float16"):
        ImageStore.open([one, write(3, 4, "half.h5", 100, dtype="float16")[0]])
    with pytest.raises(StoreError, match="stands twice"):
        ImageStore.open([one, one])


FOREIGN = {
    "chunked": {"chunks": (3, 2)},
    "compressed": {"compression": "gzip", "shuffle": True},
    "float64": {"dtype": "f8"},
    "big endian": {"dtype": ">f4"},
    "big endian half": {"dtype": ">f2"},
    "bfloat16": {"dtype": "bfloat16"},
    "int32 ids": {"ids": "<i4"},
    "big endian ids": {"ids": ">i8"},
    "uint64 ids": {"ids": "<u8"},
    "user block": {"userblock": 512},
    "compact": {"compact": True},
}


def write_foreign(path, ids, features, options):
    options = dict(options)
    with h5py.File(path, "w", userblock_size=options.pop("userblock", 0)) as file:
        file.create_dataset("ids", data=ids, dtype=options.pop("ids", "<i8"))
        dtype = options.pop("dtype", "<f4")
        if dtype == "bfloat16":
            stored = h5py.h5t.IEEE_F32LE.copy()
            stored.set_fields(15, 7, 8, 0, 7)
            stored.set_size(2)
            stored.set_ebias(127)
            space = h5py.h5s.create_simple(features.shape)
            dataset = h5py.h5d.create(file.id, b"features", stored, space)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, features)
        elif options.pop("compact", False):
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple(features.shape)
            dataset = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, plist)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, features)
        else:
            file.create_dataset("features", data=features, dtype=dtype, **options)
        file.attrs["backbone"] = "vgg"


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_cannot_be_mapped_is_copied_once(tmp_path, caplog, rng, kind):
    path, copy = tmp_path / "f.h5", tmp_path / "f.mappable.h5"
    ids = rng.permutation(90)[:30]
    features = rng.integers(-64, 64, size=(30, 5)).astype("f4")  # exact in every one of the types
    write_foreign(path, ids, features, FOREIGN[kind])
    for _ in range(2):
        store = ImageStore.open(path)
        np.testing.assert_array_equal(store.read(ids), features)
        assert store.attributes["backbone"] == "vgg" and store.paths == [str(copy)]
    assert caplog.text.count("copying it once") == 1
    assert len(ImageStore.open(tmp_path / "*.h5")) == 30, "a pattern does not name the copy as well"

    # Changed since, even if its time stamp is older than the copy's.
    write_foreign(path, ids, features + 1, FOREIGN[kind])
    os.utime(path, ns=(10**18, 10**18))
    np.testing.assert_array_equal(ImageStore.open(path).read(ids), features + 1)
    assert caplog.text.count("copying it once") == 2

    copy.write_bytes(b"not HDF5")
    np.testing.assert_array_equal(ImageStore.open(path).read(ids), features + 1)


def test_a_copy_refuses_what_the_writer_refuses(tmp_path):
    features = np.array([[1.0, 2.0], [np.nan, 4.0]])
    raw_store(tmp_path / "f.h5", [3, 4], features)
    with pytest.raises(StoreError, match="image id 4 are not all finite"):
        ImageStore.open(tmp_path / "f.h5")
    assert not (tmp_path / "f.mappable.h5").exists()


def test_validate_names_file_row_and_id(tmp_path, monkeypatch):
    features = np.ones((100, 4), "f4")
    path = raw_store(tmp_path / "f.h5", np.arange(100) * 3, features)
    monkeypatch.setattr(image_store, "_BLOCK_BYTES", 160)
    seen = []
    ImageStore.open(path).validate(lambda done, total: seen.append((done, total)))
    assert seen == [(done, 100) for done in range(10, 101, 10)]
    for bad in (np.nan, np.inf, -np.inf):
        features[57, 2] = bad
        path.unlink()
        raw_store(path, np.arange(100) * 3, features)
        with pytest.raises(StoreError, match=r"f.h5: row 57, image id 171, has features that are"):
            ImageStore.open(path).validate()


def test_a_replaced_store_is_read_anew(write, tmp_path):
    path, ids, features = write()
    old = ImageStore.open(path)
    with ImageStoreWriter(path, 3) as writer:
        writer.write(ids, features + 1)
    np.testing.assert_array_equal(ImageStore.open(path).read(ids), features + 1)
    assert old.files[0].modified != ImageStore.open(path).files[0].modified
