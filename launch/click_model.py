"""Makes the click model of a run, for training, evaluation and export alike."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from amstf.data import Samples
from amstf.errors import ConfigError
from amstf.layers import AmsEmbedding
from amstf.schema import IMAGE, Schema
from amstf.store import ImageStore
from launch import checkpoints
from launch.run_directory import RunConfig, RunDirectory
from models import Dicm, EmbeddingMlp, build, image_tower


def open_stores(samples: Samples) -> dict[str, ImageStore]:
    """Opens the image stores that the image fields of a data set refer to."""
    names = dict.fromkeys(field.store_name for field in samples.schema.of_kind(IMAGE))
    return {name: ImageStore.open(samples.image_store_path(name)) for name in names}


def make_model(config: RunConfig, schema: Schema, stores: dict[str, ImageStore]) -> keras.Model:
    """Makes the model with all its variables, in the scope of the current strategy.

    Args:
        config: Which model, and how wide.
        schema: The fields of a batch.
        stores: Image stores by name; none needed for a model without images.

    Raises:
        ConfigError: If the stores hold another width than the run was trained with.
    """
    keras.utils.set_random_seed(config.seed)
    if config.model == "embedding_mlp":
        return build(EmbeddingMlp(schema, config.hidden, config.dropout), schema)
    if not stores:
        raise ConfigError("model dicm needs images, and the data set's schema has no image field")
    for name, store in stores.items():
        if config.image_width not in (0, store.width):
            raise ConfigError(
                f"the model takes {config.image_width} features an image, but the image store "
                f"{name!r} ({store.paths[0]}) holds {store.width}; use the features that the run "
                "was trained on"
            )
    model = Dicm(
        schema,
        images=stores,
        embedding_model=image_tower(config.tower, dropout=config.tower_dropout),
        aggregator=config.aggregator,
        hidden=config.hidden,
        dropout=config.dropout,
        missing=config.missing,
    )
    return build(model, schema)


def image_layers(model: keras.Model) -> dict[str, AmsEmbedding]:
    """Returns the image embedding layers of a model by store name; none for a model of ids."""
    return dict(getattr(model, "image_embeddings", {}))


def load_run(
    run: RunDirectory, samples: Samples | None = None, which: str = "best"
) -> tuple[keras.Model, Samples, RunConfig]:
    """Makes the model of a run in this process and restores its weights.

    Args:
        run: The run.
        samples: The data set to use; by default the one the run was trained on.
        which: "best" by validation AUC, or "last".

    Returns:
        The model, the data set and the configuration.

    Raises:
        ConfigError: If the run has no checkpoint, or the data set does not fit the model.
        CheckpointError: If the checkpoint is not whole.
    """
    checkpoint = tf.train.latest_checkpoint(str(run.best)) if which == "best" else None
    checkpoint = checkpoint or tf.train.latest_checkpoint(str(run.checkpoints))
    config = run.read_config()
    samples = samples or Samples.open(config.dataset)
    if checkpoint is None:
        raise ConfigError(f"{run.path} has no checkpoint yet; let python -m launch.train go on")
    model = make_run_model(run, samples)
    checkpoints.restore(tf.train.Checkpoint(model=model), checkpoint)
    return model, samples, config


def make_run_model(run: RunDirectory, samples: Samples) -> keras.Model:
    """Makes the model of a run in this process, with new weights; raises as `load_run`."""
    config = run.read_config()
    trained = Schema.load(run.path)
    lacking = [field.name for field in trained.inputs if field not in samples.schema.fields]
    if lacking:
        raise ConfigError(
            f"{samples.directory} lacks fields that {run.path} was trained on, or has others under "
            f"their names: {', '.join(lacking)}; prepare the data set as the training data was"
        )
    stores = open_stores(samples) if config.model == "dicm" else {}
    return make_model(config, trained, stores)
