"""How much accuracy a stored type costs."""

from __future__ import annotations

import numpy as np

from amstf.store.quantization import dequantize, quantize


class RoundingLoss:
    """Collects the differences between features and what a store of a type gives back.

    Args:
        dtype: Stored type, "float32", "float16" or "uint8".

    Example:
        >>> loss = RoundingLoss("uint8")
        >>> loss.add(np.array([[0.0, 0.5, 255.0]], np.float32))
        >>> round(loss.largest * 255, 6)
        0.5
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._squared_errors = self._squares = 0.0
        self.largest = 0.0
        """Largest error, as a share of the largest feature (by its size) of its image."""

    def add(self, features: np.ndarray) -> None:
        """Counts features, float32 [n, F]."""
        if not features.size:
            return
        errors = np.abs(stored_as(features, self._dtype) - features)
        largest = np.abs(features).max(axis=1)
        shares = errors.max(axis=1)[largest > 0] / largest[largest > 0]
        self.largest = max(self.largest, float(shares.max(initial=0)))
        self._squared_errors += float(np.square(errors, dtype=np.float64).sum())
        self._squares += float(np.square(features, dtype=np.float64).sum())

    @property
    def root_mean_square(self) -> float:
        """Root mean square of the errors, as a share of that of the features."""
        return float(np.sqrt(self._squared_errors / self._squares)) if self._squares else 0.0

    def __str__(self) -> str:
        return (
            f"features change by {self.root_mean_square:.3%} (root mean square), at most by "
            f"{self.largest:.3%} of an image's largest one"
        )


def stored_as(features: np.ndarray, dtype: str) -> np.ndarray:
    """Returns features [n, F] as a store of a type gives them back, float32."""
    if dtype == "uint8":
        return dequantize(*quantize(features))
    with np.errstate(over="ignore"):
        return features.astype(dtype).astype(np.float32)
