"""The fixed part of the image model: pixels to raw features, F floats for each image."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf

from amstf.errors import ConfigError
from launch.extraction.keras_weights import RANDOM, find_weights

keras = tf.keras

POOLINGS = ("average", "max", "flatten")
"""How the output of a layer [B, H, W, C] becomes features [B, F]."""

PREPROCESSINGS = ("none", "unit", "tf", "torch", "caffe")
"""What happens to pixels 0 ... 255: nothing; / 255; and as in Keras' `preprocess_input`."""

_SEED = 0
_OUTPUT = "output"


@dataclasses.dataclass(frozen=True)
class BackboneOptions:
    """Which backbone, and how.

    Attributes:
        name: "vgg16:fc1": an application of Keras and its layer; or the path of a SavedModel or a
            Keras file, with ":LAYER" or without. Without a layer it is the last one (of an
            application the last one below its classifier, averaged over the image).
        weights: See `keras_weights.find_weights`.
        image_size: Height and width of the input; None for the backbone's own.
        arguments: Further arguments of the application, such as {"alpha": 0.25}.
        pooling: One of `POOLINGS`.
        preprocessing: One of `PREPROCESSINGS`; None for the application's own, or "none".
    """

    name: str = "vgg16:fc1"
    weights: str | None = None
    image_size: int | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pooling: str = "average"
    preprocessing: str | None = None


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone that is ready.

    Attributes:
        features: Maps uint8 [B, image_size, image_size, 3] to float32 [B, F].
        image_size: Height and width of its input.
        width: F.
        attributes: How the features are made; equal attributes mean equal features.
    """

    features: Callable[[np.ndarray], np.ndarray]
    image_size: int
    width: int
    attributes: dict[str, Any]


def make_backbone(options: BackboneOptions) -> Backbone:
    """Builds or loads a backbone and its weights.

    Raises:
        ConfigError: If there is no such backbone, layer or file, or they do not fit.
    """
    path, layer = _split(options.name)
    if path is None:
        return _application(options, *options.name.partition(":")[::2])
    if options.weights is not None or options.arguments:
        raise ConfigError(
            f"--backbone={options.name} is a file, which holds its weights and sizes: leave out "
            "--weights and --backbone_arguments"
        )
    is_keras = path.is_file() or (path / "keras_metadata.pb").exists()
    try:
        network = _keras_file(path, layer) if is_keras else _saved_model(path, layer)
    except ConfigError:
        raise
    except Exception as error:  # A foreign file fails in as many ways as there are layers.
        reason = " ".join(str(error).split())
        raise ConfigError(f"--backbone={path} cannot be loaded: {reason}") from error
    facts = {"backbone": path.name, "layer": layer or _OUTPUT, "weights": path.name}
    facts |= {"weights_sha256": _sha256(path), "weights_are_random": False}
    mode = options.preprocessing or "none"
    return _finish(network, options, facts, _preprocessing(mode), mode)


@dataclasses.dataclass(frozen=True)
class _Network:
    """A function of images, and what its input must be."""

    call: Callable[[tf.Tensor], tf.Tensor]
    shape: list[int | None]
    dtype: tf.DType


def _split(name: str) -> tuple[pathlib.Path | None, str]:
    """Path and layer of a file; None and "" for the name of an application."""
    if _plain(name.partition(":")[0]) in _applications():
        return None, ""  # Even if a directory here is called so: ./vgg16 means that one.
    if os.path.exists(name):
        return pathlib.Path(name), ""
    path, colon, layer = name.rpartition(":")
    if colon and os.path.exists(path):
        return pathlib.Path(path), layer
    if os.sep in name or name.endswith((".keras", ".h5")):
        raise ConfigError(f"--backbone={name}: there is no such file or directory")
    return None, ""


def _applications() -> dict[str, Callable[..., keras.Model]]:
    """The functions of `keras.applications` by name."""
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    return {_plain(name): getattr(keras.applications, name) for name in names}


def _plain(name: str) -> str:
    """How people may write it: MobileNetV2, mobilenet_v2, mobilenetv2."""
    return name.lower().replace("_", "")


def _application(options: BackboneOptions, name: str, layer: str) -> Backbone:
    known = _applications()
    function = known.get(_plain(name))
    if function is None:
        raise ConfigError(
            f"--backbone={options.name}: got {name!r}, wanted one of {', '.join(sorted(known))}, "
            "or the path of a SavedModel or Keras file; each with :LAYER if you like"
        )
    # Without a layer the classifier is not needed, nor are its weights; and a file without them may
    # still have the layer.
    has_top = bool(layer) and "notop" not in _plain(os.path.basename(options.weights or ""))
    arguments = {**options.arguments, "include_top": has_top}
    try:
        size = options.image_size
        if not has_top:
            # Only the whole network says which size it is for.
            size = size or function(weights=None, **options.arguments).input_shape[1]
        if size:
            arguments["input_shape"] = (size, size, 3)
        file = find_weights(options.weights, name, function, arguments)
        keras.utils.set_random_seed(_SEED)  # Random weights are the same in each run.
        model = function(weights=None if file is None else str(file), **arguments)
    except ConfigError:
        raise
    except Exception as error:  # Keras checks arguments and files in as many ways as it has.
        reason = " ".join(str(error).split())
        weights = f" with --weights={options.weights}" if options.weights else ""
        raise ConfigError(f"--backbone={options.name}{weights}: {reason}") from error
    facts = {
        "backbone": function.__name__,
        "layer": layer or _OUTPUT,
        "weights": RANDOM if file is None else file.name,
        "weights_sha256": _sha256(file) if file else _sha256_of_weights(model),
        "weights_are_random": file is None,
    }
    if options.arguments:
        facts["backbone_arguments"] = ",".join(f"{k}={v}" for k, v in options.arguments.items())
    module = sys.modules[function.__module__]
    own = options.preprocessing is None
    preprocess = module.preprocess_input if own else _preprocessing(options.preprocessing)
    described = (
        f"{module.__name__.split('.')[-1]}.preprocess_input" if own else options.preprocessing
    )
    return _finish(_of_keras(model, layer, options.name), options, facts, preprocess, described)


def _keras_file(path: pathlib.Path, layer: str) -> _Network:
    model = keras.models.load_model(path, compile=False)
    return _of_keras(model, layer, str(path))


def _of_keras(model: keras.Model, layer: str, name: str) -> _Network:
    if len(model.inputs) != 1 or (not layer and len(model.outputs) != 1):
        raise ConfigError(
            f"--backbone={name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            "wanted one image in and one vector out"
        )
    if layer:
        names = [known.name for known in model.layers]
        if layer not in names:
            raise ConfigError(
                f"--backbone={name}: there is no layer {layer!r}; the last ones are "
                f"{', '.join(names[-12:])}"
            )
        model = keras.Model(model.inputs, model.get_layer(layer).output)

    def call(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    return _Network(call, list(model.inputs[0].shape), model.inputs[0].dtype)


def _saved_model(path: pathlib.Path, output: str) -> _Network:
    loaded = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        found = ", ".join(loaded.signatures) or "none"
        raise ConfigError(
            f"--backbone={path} has no signature serving_default (it has: {found}); save it with "
            "tf.saved_model.save(model, path, signatures=function)"
        )
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or (len(outputs) != 1 and not output) or (output and output not in outputs):
        raise ConfigError(
            f"--backbone={path} takes {', '.join(inputs)} and gives {', '.join(outputs)}; wanted "
            "one image in and one vector out, which --backbone=PATH:OUTPUT can choose"
        )
    ((name, spec),) = inputs.items()
    output = output or next(iter(outputs))

    def call(images: tf.Tensor) -> tf.Tensor:
        return signature(**{name: images})[output]

    # A signature does not keep its variables alive; the object that was loaded does.
    call.loaded = loaded  # type: ignore[attr-defined]
    return _Network(call, spec.shape.as_list(), spec.dtype)


def _finish(
    network: _Network,
    options: BackboneOptions,
    facts: dict[str, Any],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    preprocessing: str | None,
) -> Backbone:
    size = _image_size(network.shape, options)

    # Without autograph, which would wrap what a network says in its own account of the code.
    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.uint8)], autograph=False)
    def features(images: tf.Tensor) -> tf.Tensor:
        pixels = preprocess(tf.cast(images, tf.float32))
        return _as_vectors(
            tf.cast(network.call(tf.cast(pixels, network.dtype)), tf.float32), pooling
        )

    pooling = options.pooling
    try:
        shape = features.get_concrete_function().structured_outputs.shape
    except ConfigError:
        raise
    except Exception as error:  # As above: what a foreign network says of its input.
        reason = " ".join(str(error).split())
        raise ConfigError(f"--backbone={options.name}: {reason}") from error
    if shape[-1] is None:
        raise ConfigError(f"--backbone={options.name}: its output has no fixed width: {shape}")
    attributes = {
        **facts,
        "pooling": options.pooling,
        "preprocessing": preprocessing,
        "image_size": size,
    }
    return Backbone(lambda images: features(images).numpy(), size, int(shape[-1]), attributes)


def _as_vectors(output: tf.Tensor, pooling: str) -> tf.Tensor:
    if output.shape.rank == 2:
        return output
    if output.shape.rank != 4:
        raise ConfigError(
            f"the backbone's output has shape {output.shape}, wanted [B, F] or [B, H, W, C]; name "
            "another layer with --backbone=NAME:LAYER"
        )
    if pooling == "flatten":
        return tf.reshape(output, [tf.shape(output)[0], int(np.prod(output.shape[1:]))])
    reduce = tf.reduce_max if pooling == "max" else tf.reduce_mean
    return reduce(output, axis=[1, 2])


def _image_size(shape: list[int | None], options: BackboneOptions) -> int:
    if len(shape) != 4 or shape[3] not in (3, None):
        raise ConfigError(
            f"--backbone={options.name} takes {shape}, wanted images [B, height, width, 3]"
        )
    if None not in shape[1:3]:
        if shape[1] != shape[2]:
            raise ConfigError(
                f"--backbone={options.name} takes images of {shape[1]} x {shape[2]}; only squares "
                "are made here"
            )
        if options.image_size not in (None, shape[1]):
            raise ConfigError(
                f"--image_size is {options.image_size}, and --backbone={options.name} takes "
                f"{shape[1]} only"
            )
        return shape[1]
    if options.image_size:
        return options.image_size
    raise ConfigError(
        f"--backbone={options.name} takes images of any size; choose one with --image_size=224"
    )


def _preprocessing(mode: str) -> Callable[[tf.Tensor], tf.Tensor]:
    if mode == "none":
        return lambda pixels: pixels
    if mode == "unit":
        return lambda pixels: pixels / 255
    return lambda pixels: keras.applications.imagenet_utils.preprocess_input(pixels, mode=mode)


def _sha256(path: pathlib.Path) -> str:
    """Of a file, or of all files of a directory with their names."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path)} {_sha256(file_path)}\n".encode())
    return digest.hexdigest()


def _sha256_of_weights(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
