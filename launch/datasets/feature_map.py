"""Changes the features of a data set's stores: to mean 0 and variance 1, or by PCA to fewer.

Both are linear maps, fitted on the images that the training split shows and on no others, so that
nothing of the items of the test decides how they look. The store keeps what was done in its
attributes, and STORE.map.npz beside it the map `(x - mean) @ matrix`, for images to come.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from amstf.data import Samples, set_image_store
from amstf.errors import ConfigError, SampleError
from amstf.schema import IMAGE
from amstf.store import ImageStore, ImageStoreWriter

MAX_PCA_FEATURES = 8192
"""Features of an image (F) up to which PCA works: it holds an [F, F] matrix of float64, 512 MB."""

_ROWS = 8192

MAP = "map"
"""Attribute of a store of mapped features: the file of the map, beside it."""


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """The map `(x - mean) @ matrix` of features [n, F] to [n, K].

    Attributes:
        mean: float64 [F].
        matrix: float64 [F, K].
        explained: Share of the variance that the K outputs hold.

    Example:
        >>> half = FeatureMap(np.array([1.0, 0.0]), np.array([[0.5], [0.0]]), 1.0)
        >>> half(np.array([[3.0, 9.0]])).tolist()
        [[1.0]]
    """

    mean: np.ndarray
    matrix: np.ndarray
    explained: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Maps features [n, F] to float32 [n, K]."""
        return ((features - self.mean) @ self.matrix).astype(np.float32)


def fit(
    mean: np.ndarray,
    covariance: np.ndarray,
    *,
    standardise: bool,
    pca: int,
    whiten: bool = False,
) -> FeatureMap:
    """Returns the map for features of this mean and covariance.

    Args:
        mean: float64 [F].
        covariance: float64 [F, F].
        standardise: Whether each feature is divided by its standard deviation; one without any
            becomes 0.
        pca: Principal components to keep, those of the largest variance first (after
            `standardise`); 0 keeps the features. The sign of a component is such that its largest
            weight is positive.
        whiten: Whether each component gets variance 1, which a network learns from sooner: the
            first components are many times as large as the others.
    """
    deviation = np.sqrt(np.diag(covariance))
    # What is left of a constant column's deviation is rounding, which must not be blown up.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1, deviation))
    if not standardise:
        scale = np.ones_like(scale)
    if not pca:
        return FeatureMap(mean, np.diag(scale), 1.0)
    # Singular vectors of a covariance are its principal axes, largest variance first.
    axes, variances, _ = np.linalg.svd(scale[:, None] * covariance * scale, hermitian=True)
    axes = axes[:, :pca]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(pca)])
    total = variances.sum()
    explained = float(variances[:pca].sum() / total) if total else 1.0
    if whiten:
        # Of components without variance there is only rounding, as of constant columns.
        kept = variances[:pca] > 1e-12 * max(total, 1e-300)
        axes = axes * np.where(kept, 1 / np.sqrt(np.where(kept, variances[:pca], 1)), 0.0)
    return FeatureMap(mean, scale[:, None] * axes, explained)


def apply(
    directory: str | os.PathLike[str],
    *,
    standardise: bool = False,
    pca: int = 0,
    whiten: bool = False,
) -> None:
    """Writes all stores of a data set anew, with mapped features.

    Args:
        directory: The data set directory; its stores are files in it.
        standardise: See `fit`.
        pca: See `fit`.
        whiten: See `fit`.

    Raises:
        ConfigError: If a store has fewer features than `pca`, or more than PCA can take.
        SampleError: If the training split shows no image of a store.
    """
    samples = Samples.open(directory)
    for name in samples.manifest.images:
        same = _of_one_file(samples, name)
        if name != same[0]:
            continue
        store = ImageStore.open(samples.image_store_path(name))
        path = pathlib.Path(directory, f"{pathlib.Path(store.paths[0]).stem}.h5")
        mapped = path.with_suffix(".mapped.h5")
        apply_to_store(
            samples, name, store, mapped, standardise=standardise, pca=pca, whiten=whiten
        )
        for old in store.paths:
            pathlib.Path(old).unlink()
        mapped.rename(path)
        _map_file(mapped).rename(_map_file(path))
        for other in same:
            set_image_store(directory, path.name, other)


def apply_to_store(
    samples: Samples,
    name: str,
    store: ImageStore,
    out: pathlib.Path,
    *,
    standardise: bool = False,
    pca: int = 0,
    whiten: bool = False,
    dtype: str | None = None,
) -> None:
    """Writes a store of mapped features, and the map beside it.

    Args:
        samples: A data set whose training split shows images of the store.
        name: Name of the store in the data set's schema.
        store: The features to fit the map on and to map.
        out: The store to write.
        standardise: See `fit`.
        pca: See `fit`.
        whiten: See `fit`.
        dtype: Stored type; None for that of `store`.

    Raises:
        ConfigError: If the store has fewer features than `pca`, or more than PCA can take, or
            there is nothing to whiten.
        SampleError: If the training split shows no image of the store.
    """
    if whiten and not pca:
        raise ConfigError("--whiten is for the components of --pca; ask for these, or leave it out")
    if pca > store.width:
        raise ConfigError(
            f"--pca is {pca}, and the store {name!r} holds {store.width} features an image; "
            "ask for at most as many"
        )
    if pca and store.width > MAX_PCA_FEATURES:
        raise ConfigError(
            f"--pca takes stores of at most {MAX_PCA_FEATURES:,} features, and {name!r} holds "
            f"{store.width:,} an image"
        )
    ids = shown_images(samples, name, store)
    if not len(ids):
        raise SampleError(f"training shows no image of the store {name!r} to fit a map on")
    moments = _moments(store, ids, full=bool(pca))
    found = fit(*moments, standardise=standardise, pca=pca, whiten=whiten)
    made = {"standardised": standardise, "pca_width": pca, "whitened": whiten}
    _write(store, out, found, len(ids), made, dtype or store.dtype)


def shown_images(samples: Samples, name: str, store: ImageStore) -> np.ndarray:
    """Returns the images of a store that the training split shows, ascending, int64 [n].

    Those of other stores of the same file too, which share its features.
    """
    names = _of_one_file(samples, name)
    fields = [f.name for f in samples.schema.of_kind(IMAGE) if f.store_name in names]
    shown: set[int] = set()
    for batch in samples.dataset("train", 4096, fields=fields, only_inputs=False):
        for field in fields:
            shown.update(np.unique(batch[field].numpy()).tolist())
    return np.intersect1d(np.array(sorted(shown), np.int64), store.ids)


def _of_one_file(samples: Samples, name: str) -> list[str]:
    """Returns the names of all stores that are the file of this one."""
    images = samples.manifest.images
    return [n for n in images if images[n] == images[name]] if name in images else [name]


def _moments(store: ImageStore, ids: np.ndarray, *, full: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean [F] and covariance [F, F] of images, in float64; else the diagonal alone."""
    mean = sum(rows.sum(axis=0) for rows in _blocks(store, ids)) / len(ids)
    # In two passes: the difference of two large sums would lose what float64 has to give.
    if full:
        return mean, sum((rows - mean).T @ (rows - mean) for rows in _blocks(store, ids)) / len(ids)
    squares = sum(((rows - mean) ** 2).sum(axis=0) for rows in _blocks(store, ids))
    return mean, np.diag(squares / len(ids))


def _blocks(store: ImageStore, ids: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(ids), _ROWS):
        yield store.read(ids[begin : begin + _ROWS]).astype(np.float64)


def _write(
    store: ImageStore,
    out: pathlib.Path,
    found: FeatureMap,
    fitted: int,
    made: dict[str, bool | int],
    dtype: str,
) -> None:
    attributes = {
        **store.attributes,
        "raw_width": store.width,
        **made,
        "explained_variance": round(found.explained, 6),
        "fitted_on": f"{fitted} images that training shows",
        MAP: f"{out.stem.removesuffix('.mapped')}.map.npz",
    }
    ids = np.asarray(store.ids)
    with ImageStoreWriter(out, found.matrix.shape[1], dtype, attributes=attributes) as writer:
        for begin in range(0, len(ids), _ROWS):
            block = ids[begin : begin + _ROWS]
            writer.write(block, found(store.read(block)))
    np.savez(_map_file(out), mean=found.mean, matrix=found.matrix)


def _map_file(store: pathlib.Path) -> pathlib.Path:
    return store.with_name(f"{store.stem}.map.npz")
