"""E of a trained model, as a function of raw features."""

from __future__ import annotations

import pathlib

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf

from amstf.errors import ConfigError
from launch.stores.neighbours import Embed

_SIGNATURE = "embed_images"


def embedding_of(run: str | None, export: str | None, name: str | None, width: int) -> Embed:
    """Returns E of a run or of an export.

    Args:
        run: A training run; or
        export: a SavedModel that `launch.export` made.
        name: Name of its image store; None if it has one only.
        width: Features of an image that E must take (F).

    Raises:
        ConfigError: If the model has no such store, or takes other features.
    """
    embeds = _of_run(run) if run else _of_export(str(export))
    model = run or export
    if not embeds:
        raise ConfigError(f"{model} embeds no images: its model sees ids only")
    if name is None and len(embeds) > 1:
        raise ConfigError(f"{model} has the stores {', '.join(embeds)}; choose one with --store")
    name = name or next(iter(embeds))
    if name not in embeds:
        raise ConfigError(f"{model} has no store {name!r}; it has: {', '.join(embeds)}")
    embed, wanted = embeds[name]
    if wanted not in (None, width):
        raise ConfigError(
            f"{model} takes {wanted} features an image, and the store holds {width}; use the "
            "store that it was trained on"
        )
    return embed


def _of_run(path: str) -> dict[str, tuple[Embed, int | None]]:
    from launch.click_model import image_layers, load_run
    from launch.run_directory import RunDirectory

    run = RunDirectory(path)
    run.read_config()
    model, _, _ = load_run(run)

    def embed_with(layer):  # type: ignore[no-untyped-def]
        return lambda features: layer.embed_features(tf.constant(features)).numpy()

    return {n: (embed_with(layer), layer.store.width) for n, layer in image_layers(model).items()}


def _of_export(path: str) -> dict[str, tuple[Embed, int | None]]:
    if not pathlib.Path(path, "saved_model.pb").exists():
        raise ConfigError(f"--export={path} is no SavedModel; make one with launch.export")
    loaded = tf.saved_model.load(path)
    found: dict[str, tuple[Embed, int | None]] = {}
    for name, signature in loaded.signatures.items():
        if not name.startswith(_SIGNATURE):
            continue
        ((argument, spec),) = signature.structured_input_signature[1].items()

        def embed(features: np.ndarray, signature=signature, argument=argument):  # type: ignore[no-untyped-def]
            outputs = signature(**{argument: tf.constant(features)})
            return next(iter(outputs.values())).numpy()

        # A signature does not keep its variables alive; the object that was loaded does.
        embed.loaded = loaded  # type: ignore[attr-defined]
        found[name.removeprefix(_SIGNATURE).lstrip("_") or "images"] = embed, spec.shape[-1]
    return found
