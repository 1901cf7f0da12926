"""The Keras layer that turns image ids into trainable image embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.config import MISSING_POLICIES
from amstf.errors import ConfigError
from amstf.layers.learnt_missing import LearntMissing, learning_missing, with_embedding_model
from amstf.layers.placements import TablePlacement, current_placement
from amstf.store import ImageStore


@keras.saving.register_keras_serializable(package="amstf")
class AmsEmbedding(keras.layers.Layer):
    """Embeds images by id: looks up their raw features and runs the embedding model E on them.

    Each distinct image of a step is looked up and embedded once. Where that happens is decided by
    the strategy in whose scope the layer is made: in this process without one, on the servers that
    hold the images under `AdvancedModelServerStrategy` (arXiv 1711.06505, section 4).

    Args:
        store: The image store.
        embedding_model: E, a Keras model or layer, [n, F] float32 -> [n, D], row by row: which
            images share a call differs from placement to placement (so no batch normalisation).
        missing: What an image that the store lacks does: "error", "zeros" (its embedding is zeros
            and trains nothing), or "learn" (its embedding is a vector that is learnt, one for all
            such images; see `LearntMissing`, which E becomes).
        servers: Indices of the parameter servers that hold the images of this store, so that
            stores may have servers of their own; None means those of the strategy's configuration.

    Inputs:
        Image ids, int64 of any shape [...], dense or ragged; a negative id means "no image".

    Returns:
        [..., D] float32; zeros where there is no image.

    Raises:
        ConfigError: If E takes another width than the store has, or `missing` is unknown.

    Example:
        >>> import pathlib, tempfile
        >>> from amstf.store import ImageStoreWriter
        >>> path = pathlib.Path(tempfile.mkdtemp(), "images.h5")
        >>> with ImageStoreWriter(path, width=2) as writer:
        ...     writer.write([7, 3], [[1.0, 2.0], [3.0, 4.0]])
        >>> sum_of_features = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        >>> layer = AmsEmbedding(ImageStore.open(path), sum_of_features)
        >>> layer(tf.constant([[3, -1], [7, 7]], tf.int64)).numpy()[..., 0].tolist()
        [[7.0, 0.0], [3.0, 3.0]]
    """

    def __init__(
        self,
        store: ImageStore,
        embedding_model: keras.layers.Layer,
        missing: str = "error",
        servers: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if missing not in MISSING_POLICIES:
            raise ConfigError(f"missing is {missing!r}; use one of {', '.join(MISSING_POLICIES)}")
        self.store = store
        self.embedding_model = (
            learning_missing(embedding_model) if missing == "learn" else embedding_model
        )
        self.missing = missing
        self.servers = None if servers is None else tuple(servers)
        self._placement = current_placement(self.servers)
        self._table: list[tf.Variable] = []

    def build(self, input_shape: Any) -> None:
        """Builds E for the width of the store."""
        if self.embedding_model.built:
            wanted = _input_width(self.embedding_model)
            if wanted not in (None, self.store.width):
                raise ConfigError(
                    f"the embedding model takes {wanted} features an image, but {self.store} holds "
                    f"{self.store.width}; give a store or an embedding model of the other's width"
                )
        else:
            self.embedding_model.build(tf.TensorShape([None, self.store.width]))
        self.embedding_width = int(
            self.embedding_model.compute_output_shape((None, self.store.width))[-1]
        )
        super().build(input_shape)

    def call(self, ids: tf.Tensor | tf.RaggedTensor, training: bool | None = None) -> Any:
        """Embeds ids of any shape."""
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(self._embed(ids.flat_values, training))
        return self._embed(ids, training)

    def _embed(self, ids: tf.Tensor, training: bool | None) -> tf.Tensor:
        ids = tf.convert_to_tensor(ids, tf.int64)
        flat = tf.maximum(tf.reshape(ids, [-1]), -1)
        if isinstance(self._placement, TablePlacement):
            # A lookup costs less than to find out which ids are distinct; -1 is never found.
            rows = self._run(flat, training)
        else:
            rows = self._embed_distinct(flat, training)
        output = tf.reshape(rows, tf.concat([tf.shape(ids), [self.embedding_width]], 0))
        return tf.ensure_shape(output, ids.shape.concatenate([self.embedding_width]))

    def _embed_distinct(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        # "No image" goes first, so that it is entry 0 of the distinct ids whatever the batch.
        distinct, positions = tf.unique(tf.concat([tf.constant([-1], tf.int64), flat], 0))
        embeddings = self._run(distinct[1:], training)
        no_image = tf.zeros([1, self.embedding_width], embeddings.dtype)
        return tf.gather(tf.concat([no_image, embeddings], 0), positions[1:])

    def _run(self, ids: tf.Tensor, training: bool | None) -> tf.Tensor:
        return self._placement.embed(ids, self.store, self.embedding_model, self.missing, training)

    def embed_features(self, features: tf.Tensor) -> tf.Tensor:
        """Runs E on raw features [n, F] that are not in the store: an image that is new."""
        return self.embedding_model(features, training=False)

    def counters(self) -> dict[str, int]:
        """Reads what was looked up in the store so far; names in `amstf.ops.COUNTER_NAMES`."""
        return self._placement.counters(self.store)

    def use_table(self, ids: Any, embeddings: Any) -> None:
        """Makes the layer read embeddings computed beforehand instead of running E.

        For serving: what is traced afterwards holds stock TensorFlow ops only.

        Args:
            ids: Image ids in ascending order, int64 [n].
            embeddings: Their embeddings, float32 or float16 [n, D].

        Raises:
            ConfigError: If the ids are not in ascending order or the shapes do not fit.
        """
        self._table = self._table_variables(ids, embeddings)
        self._placement = TablePlacement(*self._table)

    @contextlib.contextmanager
    def table(self, ids: Any, embeddings: Any) -> Iterator[None]:
        """Does `use_table` for the length of a block; the layer is afterwards what it was before.

        What is traced in the block goes on to read the table, which is no weight of the layer.
        """
        before = self._placement
        self._placement = TablePlacement(*self._table_variables(ids, embeddings))
        try:
            yield
        finally:
            self._placement = before

    def _table_variables(self, ids: Any, embeddings: Any) -> list[tf.Variable]:
        ids, embeddings = np.asarray(ids, np.int64), np.asarray(embeddings)
        if embeddings.dtype != np.float16:
            embeddings = embeddings.astype(np.float32)
        if not len(ids) and not embeddings.size:
            # A table needs a row to look at; no image has a negative id, so it is never found.
            ids = np.array([-1], np.int64)
            embeddings = np.zeros([1, self.embedding_width], np.float32)
        if ids.ndim != 1 or embeddings.shape != (len(ids), self.embedding_width):
            raise ConfigError(
                f"ids have shape {list(ids.shape)} and embeddings {list(embeddings.shape)}; wanted "
                f"[n] and [n, {self.embedding_width}]"
            )
        if (ids[1:] <= ids[:-1]).any():
            raise ConfigError(
                "ids must be in ascending order, each once; sort them with their rows"
            )
        # Of no fixed length, so that a delta (amstf.delta) may add rows to a loaded export.
        return [
            tf.Variable(
                values,
                trainable=False,
                name=f"{self.name}/{name}",
                shape=[None, *values.shape[1:]],
            )
            for name, values in (("image_ids", ids), ("image_embeddings", embeddings))
        ]

    def get_config(self) -> dict[str, Any]:
        """Configuration; the store is named by its files."""
        return {
            **super().get_config(),
            "store": self.store.paths,
            "servers": self.servers,
            "embedding_model": keras.saving.serialize_keras_object(self.embedding_model),
            "missing": self.missing,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AmsEmbedding:
        """Makes the layer again; opens the store."""
        arguments = with_embedding_model(config)
        return cls(**{**arguments, "store": ImageStore.open(arguments["store"])})


def _input_width(embedding_model: keras.layers.Layer) -> int | None:
    if isinstance(embedding_model, LearntMissing):
        return _input_width(embedding_model.embedding_model)
    shape = getattr(embedding_model, "input_shape", None)
    if shape is None and embedding_model.weights:
        shape = embedding_model.weights[0].shape[:1]
    return None if shape is None else shape[-1]
