"""Runs E over a whole image store: the table that a served model reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from amstf import ops
from amstf.layers import AmsEmbedding

_BLOCK_BYTES = 64 << 20

Progress = Callable[[int, int], None]


def embed_store(
    layer: AmsEmbedding, progress: Progress | None = None, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds every image of a layer's store, in this process.

    Features are read in the order they are stored in and block by block, so memory is that of
    one block and of the result, whatever the size of the store.

    Args:
        layer: A layer that is built.
        progress: Called with the images done so far and the images in all.
        block: Images to embed at a time; by default as many as have 64 MiB of features.

    Returns:
        Ids int64 [n], ascending, and their embeddings float32 [n, D]: what `use_table` takes.

    Raises:
        StoreError: If the store holds features that are not finite, or its files changed.

    Example:
        >>> import pathlib, tempfile, tf_keras as keras
        >>> from amstf.store import ImageStore, ImageStoreWriter
        >>> path = pathlib.Path(tempfile.mkdtemp(), "images.h5")
        >>> with ImageStoreWriter(path, width=2) as writer:
        ...     writer.write([7, 3], [[1.0, 2.0], [3.0, 4.0]])
        >>> sum_of_features = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        >>> layer = AmsEmbedding(ImageStore.open(path), sum_of_features)
        >>> layer.build(None)
        >>> [array.tolist() for array in embed_store(layer)]
        [[3, 7], [[7.0], [3.0]]]
    """
    store = layer.store
    block = block or max(1, _BLOCK_BYTES // (4 * store.width))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def embed(ids: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            handle = ops.image_store(store.files, store.width, tf.as_dtype(store.dtype))
            features, _ = ops.image_lookup(handle, ids)
        return layer.embed_features(features)

    embeddings = np.empty((len(store), layer.embedding_width), np.float32)
    with ops.image_errors():
        for begin in range(0, len(store), block):
            part = store.ids[begin : begin + block]
            embeddings[begin : begin + len(part)] = embed(tf.constant(part)).numpy()
            if progress is not None:
                progress(begin + len(part), len(store))
    order = np.argsort(store.ids, kind="stable")
    return store.ids[order], embeddings[order]
