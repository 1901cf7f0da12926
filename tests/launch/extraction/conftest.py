"""A small network in a file, and a directory of small pictures."""

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

SIZE, WIDTH = 8, 3


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def keras_file(tmp_path_factory):
    """Mean of each channel of an image of 8 x 8, in a layer `means`; then twice that."""
    keras = tf.keras
    images = keras.Input([SIZE, SIZE, 3])
    means = keras.layers.GlobalAveragePooling2D(name="means")(images)
    twice = keras.layers.Dense(WIDTH, use_bias=False, name="twice")
    model = keras.Model(images, twice(means))
    twice.set_weights([2 * np.eye(WIDTH, dtype="f4")])
    path = tmp_path_factory.mktemp("backbone") / "means.keras"
    model.save(path)
    return path


@pytest.fixture
def pictures(tmp_path, rng):
    """Returns a function that writes pictures of one colour each; the colours by id, [n, 3]."""

    def write(ids, directory=tmp_path / "pictures"):
        directory.mkdir(exist_ok=True)
        colours = {}
        for image_id in ids:
            colours[image_id] = np.random.default_rng(image_id).integers(0, 256, 3)
            pixels = np.broadcast_to(colours[image_id].astype(np.uint8), (12, 10, 3))
            Image.fromarray(np.ascontiguousarray(pixels)).save(directory / f"{image_id}.png")
        return directory, colours

    return write
