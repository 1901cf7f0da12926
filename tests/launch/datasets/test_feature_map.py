import shutil

import numpy as np
import pytest

from amstf.data import Samples, SampleWriter, set_image_store
from amstf.errors import ConfigError, SampleError
from amstf.schema import Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from launch.datasets import feature_map

SCHEMA = Schema(
    (
        Field("picture", "image", side="ad"),
        Field("seen", "image", side="user", is_list=True),
        Field("click", "label"),
    )
)
# Training shows 0 to 3: a rectangle of 8 by 4 around (5, 1), turned so that its long side runs
# along (3, 4) / 5. Item 9 is of the test, far away from them.
LONG, SHORT = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
CENTRE = np.array([5.0, 1.0])
RECTANGLE = [CENTRE + 4 * a * LONG + 2 * b * SHORT for a in (-1, 1) for b in (-1, 1)]
FEATURES = np.array([*RECTANGLE, CENTRE + 100 * SHORT], np.float32)


@pytest.fixture
def data(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    with ImageStoreWriter(directory / "images.h5", 2, attributes={"layer": "fc6"}) as writer:
        writer.write([0, 1, 2, 3, 9], FEATURES)
    for split, pictures in (("train", (0, 1)), ("test", (9,))):
        with SampleWriter(directory, SCHEMA, split, num_shards=1) as writer:
            for picture in pictures:
                # An image that the store lacks is nothing to fit on.
                writer.write({"picture": picture, "seen": [2, 3, 77], "click": 1.0})
    set_image_store(directory, "images.h5")
    return directory


def store_of(directory):
    return ImageStore.open(Samples.open(directory).image_store_path())


def test_components_by_hand(data):
    feature_map.apply(data, pca=1)
    store = store_of(data)
    assert store.width == 1 and str(store.dtype) == "float32"
    got = store.read([0, 1, 2, 3, 9])[:, 0]
    np.testing.assert_allclose(got, [-4, -4, 4, 4, 0], atol=1e-5)
    # The variances are 16 and 4.
    assert store.attributes["explained_variance"] == 0.8
    assert store.attributes["pca_width"] == 1 and store.attributes["raw_width"] == 2
    assert store.attributes["fitted_on"] == "4 images that training shows"
    assert store.attributes["layer"] == "fc6"
    with np.load(data / store.attributes["map"]) as saved:
        np.testing.assert_allclose(saved["mean"], CENTRE, atol=1e-6)
        np.testing.assert_allclose(saved["matrix"], LONG[:, None], atol=1e-6)
    assert sorted(path.name for path in data.glob("*.h5")) == ["images.h5"]


def test_all_components_turn_and_change_no_distance(data):
    before = store_of(data).read([0, 1, 9])
    feature_map.apply(data, pca=2)
    after = store_of(data).read([0, 1, 9])
    for k in (1, 2):
        np.testing.assert_allclose(
            np.linalg.norm(after[0] - after[k]), np.linalg.norm(before[0] - before[k]), rtol=1e-5
        )
    assert store_of(data).attributes["explained_variance"] == 1.0


def test_whitened_components_have_variance_one_and_those_without_any_are_zero(data):
    feature_map.apply(data, pca=2, whiten=True)
    store = store_of(data)
    rows = store.read([0, 1, 2, 3])
    np.testing.assert_allclose(rows[:, 0], [-1, -1, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(np.abs(rows[:, 1]), np.ones(4), rtol=1e-5)
    assert store.attributes["whitened"]
    flat = feature_map.fit(np.zeros(2), np.diag([4.0, 0.0]), standardise=False, pca=2, whiten=True)
    np.testing.assert_allclose(flat(np.array([[2.0, 5.0]])), [[1.0, 0.0]])


def test_standardised_over_what_training_shows(data):
    feature_map.apply(data, standardise=True)
    store = store_of(data)
    rows = store.read([0, 1, 2, 3])
    np.testing.assert_allclose(rows.mean(axis=0), [0, 0], atol=1e-6)
    np.testing.assert_allclose(rows.std(axis=0), [1, 1], rtol=1e-5)
    # Feature 0 has the variance 16 * 0.36 + 4 * 0.64 = 8.32, and item 9 lies 80 to the left.
    np.testing.assert_allclose(store.read([9])[0, 0], -80 / np.sqrt(8.32), rtol=1e-5)
    assert store.attributes["standardised"] and store.attributes["pca_width"] == 0


def test_standardise_comes_before_the_components():
    mean, covariance = np.zeros(2), np.diag([100.0, 1.0])
    plain = feature_map.fit(mean, covariance, standardise=False, pca=1)
    assert plain(np.array([[10.0, 1.0]])).tolist() == [[10.0]]
    both = feature_map.fit(mean, np.array([[100, 8], [8, 1]]), standardise=True, pca=1)
    # Standardised they correlate by 0.8: the component is their sum, of 1.8 of the variance of 2.
    np.testing.assert_allclose(both(np.array([[10.0, 1.0]])), [[2 / np.sqrt(2)]], rtol=1e-6)
    assert both.explained == pytest.approx(0.9)


def test_a_constant_feature_becomes_zero():
    found = feature_map.fit(np.array([0.1, 2]), np.diag([1e-20, 4.0]), standardise=True, pca=0)
    np.testing.assert_allclose(found(np.array([[0.1, 4.0], [0.2, 2.0]])), [[0, 1], [0, 0]])


def test_what_cannot_be_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match="--whiten is for the components of --pca; ask for"):
        feature_map.apply(data, whiten=True)
    with pytest.raises(ConfigError, match="--pca is 3, and the store 'images' holds 2 features"):
        feature_map.apply(data, pca=3)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    with ImageStoreWriter(other / "images.h5", 2) as writer:
        writer.write([9], FEATURES[-1:])
    with pytest.raises(SampleError, match="training shows no image of the store 'images'"):
        feature_map.apply(other, standardise=True)
