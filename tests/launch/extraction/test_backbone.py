import hashlib

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import pytest
import tensorflow as tf

from amstf import compat
from amstf.errors import ConfigError
from launch.extraction.backbone import BackboneOptions, make_backbone

keras = tf.keras
MOBILENET = {"arguments": {"alpha": 0.25}, "image_size": 32}


def make(name, **options):
    return make_backbone(BackboneOptions(name, **options))


def images(rng, count, size):
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_a_keras_file_and_a_layer_of_it(keras_file, rng):
    pixels = images(rng, 3, 8)
    means = pixels.astype("f4").mean(axis=(1, 2))
    backbone = make(str(keras_file))
    np.testing.assert_allclose(backbone.features(pixels), 2 * means, rtol=1e-5)
    assert (backbone.image_size, backbone.width) == (8, 3)
    assert backbone.attributes == {
        "backbone": "means.keras", "layer": "output", "weights": "means.keras",
        "weights_sha256": hashlib.sha256(keras_file.read_bytes()).hexdigest(),
        "weights_are_random": False, "pooling": "average", "preprocessing": "none",
        "image_size": 8,
    }  # fmt: skip
    layer = make(f"{keras_file}:means", preprocessing="unit")
    np.testing.assert_allclose(layer.features(pixels[:1]), means[:1] / 255, rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "of_255", "of_0"), [("tf", 1, -1), ("torch", 2.2489083, -2.117904), ("none", 255, 0)]
)
def test_preprocessing_by_hand(keras_file, mode, of_255, of_0):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0] = 255
    features = make(f"{keras_file}:means", preprocessing=mode).features(pixels)
    np.testing.assert_allclose(features[:, 0], [of_255, of_0], rtol=1e-5)


def test_how_a_map_becomes_a_vector(tmp_path, rng):
    inputs = keras.Input([4, 4, 3])
    keras.Model(inputs, keras.layers.MaxPool2D()(inputs)).save(tmp_path / "m.keras")
    pixels = images(rng, 2, 4)
    pooled = pixels.reshape(2, 2, 2, 2, 2, 3).max(axis=(2, 4)).astype("f4")
    wanted = {
        "average": pooled.mean(axis=(1, 2)),
        "max": pooled.max(axis=(1, 2)),
        "flatten": pooled.reshape(2, 12),
    }
    for pooling, features in wanted.items():
        backbone = make(str(tmp_path / "m.keras"), pooling=pooling)
        np.testing.assert_allclose(backbone.features(pixels), features)
        assert backbone.width == features.shape[1]


def test_a_saved_model_of_any_maker(tmp_path, rng):
    class Module(tf.Module):
        def __init__(self):
            self.factor = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 6, 6, 3], tf.float32, "image")])
        def __call__(self, image):
            return {"sum": self.factor * tf.reduce_sum(image, [1, 2]), "other": image[:, 0, 0]}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "m"), {"serving_default": module.__call__})
    pixels = images(rng, 2, 6)
    backbone = make(f"{tmp_path}/m:sum")
    np.testing.assert_allclose(
        backbone.features(pixels), 2 * pixels.astype("f4").sum(axis=(1, 2)), rtol=1e-5
    )
    assert (
        backbone.attributes["layer"] == "sum" and len(backbone.attributes["weights_sha256"]) == 64
    )
    with pytest.raises(ConfigError, match=r"takes image and gives .*; wanted one image in"):
        make(f"{tmp_path}/m")
    tf.saved_model.save(tf.Module(), str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="has no signature serving_default"):
        make(f"{tmp_path}/none")


def test_an_application_with_random_weights_is_the_same_each_time(rng):
    pixels = images(rng, 2, 32)
    one, other = (make("mobilenet", weights="random", **MOBILENET) for _ in range(2))
    assert (one.width, one.image_size) == (256, 32)
    assert one.attributes["weights_are_random"] and one.attributes["weights"] == "random"
    assert one.attributes["backbone_arguments"] == "alpha=0.25"
    assert one.attributes["preprocessing"] == "mobilenet.preprocess_input"
    assert one.attributes == other.attributes
    np.testing.assert_array_equal(one.features(pixels), other.features(pixels))


def test_weights_of_a_file_of_ones_own(tmp_path, rng):
    keras.utils.set_random_seed(7)
    network = keras.applications.MobileNet(
        weights=None, alpha=0.25, input_shape=(32, 32, 3), include_top=False
    )
    network.save_weights(tmp_path / "mine.h5")
    backbone = make("mobilenet", weights=str(tmp_path / "mine.h5"), **MOBILENET)
    pixels = images(rng, 2, 32)
    maps = network(pixels.astype("f4") / 127.5 - 1, training=False)
    np.testing.assert_allclose(
        backbone.features(pixels), np.mean(maps, axis=(1, 2)), rtol=1e-4, atol=1e-6
    )
    digest = hashlib.sha256((tmp_path / "mine.h5").read_bytes()).hexdigest()
    assert backbone.attributes["weights_sha256"] == digest
    assert not backbone.attributes["weights_are_random"]
    # Of another size; Keras' error, in one line.
    with pytest.raises(
        ConfigError, match=r"--backbone=mobilenet with --weights=.*mine.h5: "
    ) as error:
        make("mobilenet", weights=str(tmp_path / "mine.h5"), image_size=32)
    assert "\n" not in str(error.value)


def test_keras_names_of_files_are_known():
    names = {
        options: compat.published_weights(keras.applications.MobileNet, **dict(options))[0]
        for options in [(("alpha", 0.5),), (("include_top", False),)]
    }
    assert list(names.values()) == ["mobilenet_5_0_224_tf.h5", "mobilenet_1_0_224_tf_no_top.h5"]
    name, address, checksum = compat.published_weights(
        keras.applications.EfficientNetB0, include_top=False
    )
    assert name == "efficientnetb0_notop.h5" and address.endswith(name) and len(checksum) == 32


def test_weights_in_a_folder_and_their_check(tmp_path):
    with pytest.raises(
        ConfigError, match=r"the directory has no mobilenet_v2_.*0.35_96_no_top.h5, Keras' name"
    ):
        small = {"arguments": {"alpha": 0.35}, "image_size": 96}
        make("mobilenet_v2", weights=str(tmp_path), **small)
    # EfficientNet's files have checksums in Keras.
    (tmp_path / "efficientnetb0_notop.h5").write_bytes(b"cut")
    for weights in (tmp_path, tmp_path / "efficientnetb0_notop.h5"):
        with pytest.raises(
            ConfigError, match=r"name for its published weights, but md5 .* damaged"
        ):
            make("efficientnetb0", weights=str(weights), image_size=224)
    with pytest.raises(ConfigError, match="--weights=/no/where: there is no such file"):
        make("mobilenet", weights="/no/where", **MOBILENET)


def test_no_network_and_no_file_is_one_clear_message(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise Exception("URL fetch failure on https://x: None -- [Errno -2] Name not known")

    monkeypatch.setattr(keras.utils, "get_file", fails)
    with pytest.raises(ConfigError) as error:
        make("mobilenet", arguments={"alpha": 0.25}, image_size=128)
    message = str(error.value)
    assert "could not be fetched ([Errno -2] Name not known); download https://" in message
    assert "put mobilenet_2_5_128_tf_no_top.h5 into ~/.keras/models or say where it is" in message


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vgg99:fc1", {}, "got 'vgg99', wanted one of convnextbase, .* vgg16"),
        ("nowhere/m.keras", {}, "there is no such file"),
        (
            "mobilenet:nope",
            {"weights": "random", **MOBILENET},
            "no layer 'nope'; the last ones are",
        ),
        ("mobilenet", {"weights": "random", "arguments": {"beta": 1}}, "beta"),
        ("mobilenet", {"weights": "random", "arguments": {"alpha": 0.25}, "image_size": 16}, "16"),
    ],
)
def test_names_that_do_not_fit(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make(name, **options)


def test_files_that_do_not_fit(tmp_path, keras_file):
    def save(*shape, output=lambda x: x):
        inputs = keras.Input(shape)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.keras"
        keras.Model(inputs, output(inputs)).save(path)
        return str(path)

    (tmp_path / "bad.keras").write_bytes(b"no model")
    flat = keras.layers.GlobalAveragePooling2D()
    for name, options, words in (
        (str(tmp_path / "bad.keras"), {}, "bad.keras cannot be loaded"),
        (str(keras_file), {"weights": "random"}, "is a file, which holds its weights"),
        (str(keras_file), {"image_size": 9}, "--image_size is 9, and .* takes 8 only"),
        (save(4, 5, 3), {}, "takes images of 4 x 5; only squares"),
        (save(4, 4, 1), {}, r"takes \[None, 4, 4, 1\], wanted images"),
        (save(None, None, 3, output=flat), {}, "takes images of any size; choose one"),
        (save(4, 4, 3, output=keras.layers.Reshape([16, 3])), {}, r"\(None, 16, 3\), wanted"),
    ):
        with pytest.raises(ConfigError, match=words):
            make(name, **options)
    assert make(save(None, None, 3, output=flat), image_size=5).image_size == 5


def test_a_folder_with_the_well_known_file(tmp_path, rng, monkeypatch):
    network = keras.applications.MobileNet(
        weights=None, alpha=0.25, input_shape=(128, 128, 3), include_top=False
    )
    path = tmp_path / "mobilenet_2_5_128_tf_no_top.h5"
    network.save_weights(path)
    options = {"weights": str(tmp_path), "arguments": {"alpha": 0.25}, "image_size": 128}
    pixels = images(rng, 1, 128)
    maps = network(pixels.astype("f4") / 127.5 - 1, training=False)
    wanted = np.mean(maps, axis=(1, 2))
    backbone = make("mobilenet", **options)
    np.testing.assert_allclose(backbone.features(pixels), wanted, rtol=1e-4, atol=1e-6)
    assert backbone.attributes["weights"] == path.name
    # Keras checks no MobileNet; if it did, by this one's sum.
    for kind in ("md5", "sha256"):
        digest = hashlib.new(kind, path.read_bytes()).hexdigest()
        known = (path.name, "https://x", digest)
        monkeypatch.setattr(compat, "published_weights", lambda *_, known=known, **__: known)
        assert make("mobilenet", **options).attributes == backbone.attributes
        content = path.read_bytes()
        path.write_bytes(content + b"x")
        with pytest.raises(ConfigError, match=f"{kind} .* where Keras' file has {digest}"):
            make("mobilenet", **options)
        path.write_bytes(content)
