"""Features as uint8 with a scale and an offset for each row: a quarter of float32's bytes."""

from __future__ import annotations

import numpy as np

LEVELS = 255


def quantize(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps the range of each row to 0 ... 255.

    q = round((x - offset) / scale), offset = min of the row, scale = (max - min) / 255. So the
    error is at most half a scale, and the zeros of features behind a ReLU stay exact.

    Args:
        features: Finite floats [n, F].

    Returns:
        uint8 [n, F], and scale and offset of each row, float32 [n, 2]; not finite where the range
        of a row is beyond float32.

    Example:
        >>> quantized, scales = quantize(np.array([[1.0, 2.0, 128.5]]))
        >>> quantized.tolist(), scales.tolist()
        ([[0, 2, 255]], [[0.5, 1.0]])
    """
    offsets = features.min(axis=1, keepdims=True).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        ranges = features.max(axis=1, keepdims=True) - offsets
        scales = (ranges / LEVELS).astype(np.float32)
        steps = np.where(scales > 0, scales, 1)
        quantized = np.clip(np.rint((features - offsets) / steps), 0, LEVELS)
        return np.nan_to_num(quantized).astype(np.uint8), np.hstack([scales, offsets])


def dequantize(quantized: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns offset + scale * q, float32 [n, F]: the same bits as the op's.

    Args:
        quantized: uint8 [n, F].
        scales: Scale and offset of each row, float32 [n, 2].
    """
    features = quantized.astype(np.float32)
    features *= scales[:, :1]
    features += scales[:, 1:]
    return features


def ends(scales: np.ndarray) -> np.ndarray:
    """Returns the values of 0 and 255, float32 [n, 2]; all of a row lie between them.

    Args:
        scales: Scale and offset of each row, float32 [n, 2].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return scales[:, 1:] + scales[:, :1] * np.array([[0, LEVELS]], np.float32)
