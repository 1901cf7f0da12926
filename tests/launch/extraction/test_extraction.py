import os
import threading

import numpy as np
import pytest

from amstf.errors import ConfigError, StoreError
from amstf.store import ImageStore, ImageStoreWriter
from launch.extraction import work_directory
from launch.extraction.backbone import Backbone, BackboneOptions, make_backbone
from launch.extraction.extraction import Settings, extract
from launch.extraction.image_list import list_images
from launch.extraction.pipeline import decoded_batches


@pytest.fixture(scope="module")
def backbone(keras_file):
    return make_backbone(BackboneOptions(f"{keras_file}:means"))


@pytest.fixture
def run(tmp_path, backbone):
    """Returns a function that extracts from a directory to images.h5, 4 images at a time."""

    def extract_to_store(directory, network=backbone, **settings):
        settings = Settings(**{"out": tmp_path / "images.h5", "batch_size": 4, **settings})
        return extract(list_images(str(directory)), network, settings)

    return extract_to_store


def check(store, colours, tolerance=0.06):
    assert sorted(store.ids.tolist()) == sorted(colours)
    features = store.read(np.array(sorted(colours)))
    np.testing.assert_allclose(features, [colours[i] for i in sorted(colours)], atol=tolerance)


def test_features_come_under_their_ids(tmp_path, pictures, run):
    directory, colours = pictures(range(3, 14))
    done = run(directory, facts={"made_by": "test"})
    check(done.store, colours)
    assert (done.new, done.before, done.resumed, done.broken) == (11, 0, 0, [])
    assert done.store.dtype == "float16" and done.store.attributes["made_by"] == "test"
    assert done.store.attributes["fit"] == "stretch"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.h5", "pictures"]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("uint8", 0.51)])
def test_other_types(pictures, run, dtype, tolerance):
    directory, colours = pictures(range(6))
    done = run(directory, dtype=dtype)
    check(done.store, colours, tolerance)
    assert done.store.dtype == dtype
    assert (done.loss.largest == 0) == (dtype == "float32") and done.loss.largest < 0.5 / 255
    assert ("rounding to uint8" in done.summary("x")) == (dtype == "uint8")


def test_what_is_new_is_added(pictures, run, backbone):
    directory, colours = pictures(range(5))
    run(directory)
    assert pictures([2, 7, 9])[1][2].tolist() == colours[2].tolist()
    colours |= pictures([7, 9])[1]
    seen = []
    counting = Backbone(
        lambda images: seen.append(len(images)) or backbone.features(images),
        backbone.image_size, backbone.width, backbone.attributes,
    )  # fmt: skip
    done = run(directory, counting)
    assert (sum(seen), done.new, done.before) == (2, 2, 5)
    check(done.store, colours)
    before = os.stat(done.store.paths[0]).st_ino
    done = run(directory, counting)
    assert (sum(seen), done.new, done.before) == (2, 0, 7)
    assert os.stat(done.store.paths[0]).st_ino == before, "nothing to add, yet written again"


def test_features_of_two_kinds_are_not_mixed(tmp_path, pictures, run, keras_file):
    directory, colours = pictures(range(3))
    run(directory)
    other = make_backbone(BackboneOptions(str(keras_file)))
    with pytest.raises(ConfigError, match=r"made with layer means \(now output\); features of two"):
        run(directory, other)
    with pytest.raises(ConfigError, match=r"made with dtype float16 \(now uint8\)"):
        run(directory, dtype="uint8")
    assert not list(tmp_path.glob(".*"))
    done = run(directory, other, overwrite=True)
    check(done.store, {image: 2 * colour for image, colour in colours.items()}, 0.3)
    with ImageStoreWriter(tmp_path / "images.h5", 3, "float16") as writer:
        writer.write([1], [[1, 2, 3]])
    with pytest.raises(ConfigError, match="made with backbone unknown"):
        run(directory)


def test_a_stopped_run_goes_on(tmp_path, pictures, run, backbone, monkeypatch):
    monkeypatch.setattr(work_directory, "PART_IMAGES", 4)
    directory, colours = pictures(range(14))
    seen = []

    def stop_at_the_third(images):
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return backbone.features(images)

    stopping = Backbone(stop_at_the_third, backbone.image_size, backbone.width, backbone.attributes)
    with pytest.raises(KeyboardInterrupt):
        run(directory, stopping)
    work = tmp_path / ".images.h5.extracting"
    assert len(list(work.glob("part-*.h5"))) == 2 and not (tmp_path / "images.h5").exists()
    # What a killed writer leaves.
    (work / ".part-000002.h5.1.partial").write_bytes(b"half")
    (tmp_path / ".images.h5.1.partial").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"was stopped, with dtype float16 \(now float32\)"):
        run(directory, dtype="float32")
    done = run(directory)
    assert (done.new, done.resumed) == (6, 8)
    check(done.store, colours)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.h5", "pictures"]


def test_killed_between_the_store_and_the_removal_of_the_parts(
    tmp_path, pictures, run, monkeypatch
):
    directory, colours = pictures(range(6))
    monkeypatch.setattr(work_directory.WorkDirectory, "remove", lambda self: None)
    run(directory)
    monkeypatch.undo()
    assert list((tmp_path / ".images.h5.extracting").glob("part-*"))
    done = run(directory)
    assert (done.new, done.before, done.resumed) == (0, 6, 0)
    check(done.store, colours)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.h5", "pictures"]


def test_broken_images_are_listed_and_left_out(tmp_path, pictures, run):
    directory, colours = pictures(range(9))
    (directory / "100.jpg").write_bytes(b"")
    (directory / "4.png").write_bytes(b"text")
    del colours[4]
    done = run(directory)
    check(done.store, colours)
    report = (tmp_path / "images.broken.csv").read_text().splitlines()
    assert sorted(report[1:]) == [
        f"100,{directory}/100.jpg,the file is empty",
        f'4,{directory}/4.png,"not a file of JPEG, PNG, WEBP, GIF, BMP"',
    ]
    assert report[0] == "id,path,reason" and "broken: 2 images left out" in done.summary("x")
    # Mended: taken, and the report goes.
    (directory / "100.jpg").unlink()
    colours |= pictures([4])[1]
    check(run(directory).store, colours)
    assert not (tmp_path / "images.broken.csv").exists()


def test_a_broken_image_can_end_the_run(tmp_path, pictures, run):
    directory, colours = pictures(range(4))
    (directory / "5.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"5.jpg \(image id 5\): the file is empty; mend or"):
        run(directory, stop_at_broken=True)
    (directory / "5.jpg").unlink()
    done = run(directory, stop_at_broken=True)
    assert (done.new, done.resumed) == (0, 4)
    check(done.store, colours)


def test_nothing_but_broken_images(tmp_path, pictures, run):
    directory, _ = pictures([])
    (directory / "5.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of the 1 images could be read.*empty \(1\)"):
        run(directory)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["images.broken.csv", "pictures"]


def test_features_that_cannot_be_stored(pictures, run, backbone):
    directory, _ = pictures(range(3))

    def of(value):
        def features(images):
            made = backbone.features(images)
            made[0, 0] = value
            return made

        return Backbone(features, backbone.image_size, backbone.width, backbone.attributes)

    with pytest.raises(StoreError, match="image id 0 has a feature beyond the range of float16"):
        run(directory, of(1e6))
    done = run(directory, of(np.nan))
    assert [(image.id, image.reason) for image in done.broken] == [
        (0, "its features are not finite")
    ]
    assert sorted(done.store.ids) == [1, 2]


def test_one_program_at_a_time(pictures, run, backbone):
    directory, _ = pictures(range(3))
    inside, outcome = threading.Event(), []

    def features(images):
        inside.set()
        release.wait(30)
        return backbone.features(images)

    release = threading.Event()
    slow = Backbone(features, backbone.image_size, backbone.width, backbone.attributes)
    thread = threading.Thread(target=lambda: outcome.append(run(directory, slow)))
    thread.start()
    assert inside.wait(30)
    try:
        with pytest.raises(ConfigError, match="another program is extracting to"):
            run(directory)
    finally:
        release.set()
        thread.join(30)
    assert outcome[0].new == 3


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_keep_the_order_whatever_their_size(pictures, batch_size):
    directory, colours = pictures(range(11))
    (directory / "5.png").write_bytes(b"")
    images = list_images(str(directory))
    batches = list(
        decoded_batches(
            images.ids.tolist(),
            images.paths,
            size=4,
            fit="stretch",
            batch_size=batch_size,
            threads=3,
        )
    )
    ids = np.concatenate([batch.ids for batch in batches]).tolist()
    assert ids == [i for i in images.ids.tolist() if i != 5]
    pixels = np.concatenate([batch.images for batch in batches])
    assert [tuple(image[0, 0]) for image in pixels] == [tuple(colours[i]) for i in ids]
    assert [broken.id for batch in batches for broken in batch.broken] == [5]
    assert all(len(batch.ids) + len(batch.broken) <= batch_size for batch in batches)


def test_the_store_that_was_there_is_a_store(tmp_path, pictures, run):
    directory, _ = pictures(range(2))
    (tmp_path / "images.h5").write_bytes(b"text")
    with pytest.raises(StoreError, match="is not a readable HDF5 file"):
        run(directory)
    assert ImageStore.open(run(directory, overwrite=True).store.paths[0]).ids.tolist() == [0, 1]
