"""What is in a store, for people."""

from __future__ import annotations

import numpy as np

from amstf.store import ImageStore, hdf5_layout

_SAMPLE = 1000


def describe(store: ImageStore, seed: int = 0) -> str:
    """Returns size, type, attributes and the range of some features.

    Args:
        store: The store.
        seed: Of the images whose features are looked at, at most 1,000.
    """
    row_bytes = store.width * hdf5_layout.features_bytes(store.dtype)
    scales = ", a scale and an offset each" if store.dtype == "uint8" else ""
    size = sum(file.bytes for file in store.files)
    ids = f", ids {store.ids.min()} to {store.ids.max()}" if len(store) else ""
    lines = [
        ("images", f"{len(store):,}{ids}"),
        ("features", f"{store.width:,} of {store.dtype}{scales}, {row_bytes:,} bytes an image"),
        ("files", f"{len(store.files)}, {size / 1e6:,.1f} MB"),
    ]
    if len(store):
        rng = np.random.default_rng(seed)
        some = rng.choice(store.ids, min(_SAMPLE, len(store)), replace=False)
        features = store.read(some)
        lines += [
            (
                "range",
                f"{features.min():.4g} to {features.max():.4g}, mean {features.mean():.4g}, "
                f"{(features == 0).mean():.0%} zeros (of {len(some):,} images)",
            )
        ]
    lines += [(name, str(value)) for name, value in sorted(store.attributes.items())]
    wide = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{wide}}  {text}" for name, text in lines)
