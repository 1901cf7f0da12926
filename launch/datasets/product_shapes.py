"""Outlines of products, from slender to round, as polygons in the unit square (y points down)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a product looks like from the front; polygons [points, 2].

    Attributes:
        body: Its parts.
        holes: What is cut out of them, such as the inside of a handle.
        details: Parts of the body that are darker, such as a rim.
    """

    body: Sequence[np.ndarray]
    holes: Sequence[np.ndarray] = ()
    details: Sequence[np.ndarray] = ()


def mirrored(right_half: Sequence[tuple[float, float]], smooth: int = 3) -> np.ndarray:
    """Returns a closed outline from its right half, top to bottom; x counts from the middle.

    Args:
        right_half: Corners.
        smooth: How often corners are cut (Chaikin's algorithm): 0 keeps them sharp.
    """
    points = np.array(right_half, float)
    for _ in range(smooth):
        first, second = points[:-1], points[1:]
        cut = np.stack([0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    left = points[::-1] * (-1, 1)
    return np.concatenate([points, left]) + np.array([0.5, 0])


def ellipse(x: float, y: float, width: float, height: float, power: float = 2.0) -> np.ndarray:
    """Returns a superellipse around (x, y) with these half axes; 2 is an ellipse, 8 a box."""
    angle = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(points) * np.abs(points) ** (2 / power) * (width, height) + (x, y)


def shirt(shape: float) -> Outline:
    """A T-shirt; the rounder, the wider and shorter, with longer sleeves."""
    waist, hem = 0.2 + 0.1 * shape, 0.97 - 0.1 * shape
    sleeve = 0.06 * shape
    half = [
        (0, 0.12), (0.1, 0.08), (0.19, 0.09), (0.36, 0.17), (0.49, 0.38 + sleeve),
        (0.38, 0.45 + sleeve), (waist + 0.03, 0.36), (waist, 0.6), (waist + 0.01, hem), (0, hem),
    ]  # fmt: skip
    collar = mirrored([(0, 0.06), (0.1, 0.07), (0.085, 0.125), (0.04, 0.17), (0, 0.18)], 2)
    inside = mirrored([(0, 0.04), (0.08, 0.06), (0.07, 0.115), (0.03, 0.15), (0, 0.155)], 2)
    return Outline([mirrored(half, 2)], holes=[inside], details=[collar])


def dress(shape: float) -> Outline:
    """A dress; the rounder, the wider its skirt."""
    skirt = 0.2 + 0.24 * shape
    half = [
        (0, 0.13), (0.07, 0.1), (0.09, 0.02), (0.13, 0.02), (0.15, 0.12), (0.17, 0.22),
        (0.12, 0.4), (0.13, 0.46), (skirt * 0.85, 0.75), (skirt, 0.98), (0, 0.99),
    ]  # fmt: skip
    belt = mirrored([(0, 0.395), (0.127, 0.395), (0.127, 0.435), (0, 0.435)], 0)
    return Outline([mirrored(half, 2)], details=[belt])


def mug(shape: float) -> Outline:
    """A mug; the rounder, the more its body bulges."""
    top, bulge = 0.27, 0.26 + 0.1 * shape
    low = 0.24 - 0.04 * shape
    half = [(0, 0.18), (top, 0.18), (bulge, 0.42), (bulge, 0.62), (low, 0.88), (0, 0.89)]
    body = mirrored(half, 3) - (0.07, 0)
    handle = ellipse(0.43 + bulge, 0.5, 0.15, 0.2)
    hole = ellipse(0.44 + bulge, 0.5, 0.09, 0.13)
    # The hole is of the handle only: what lies in the body stays.
    hole = hole[hole[:, 0] > 0.425 + bulge]
    rim = ellipse(0.43, 0.19, top, 0.045)
    return Outline([body, handle, rim], holes=[hole], details=[rim])


def vase(shape: float) -> Outline:
    """A vase; the rounder, the wider its belly."""
    belly = 0.13 + 0.25 * shape
    half = [
        (0, 0.04), (0.13, 0.04), (0.08, 0.14), (0.07, 0.26), (belly, 0.42), (belly + 0.02, 0.64),
        (0.12, 0.9), (0.14, 0.96), (0, 0.97),
    ]  # fmt: skip
    return Outline([mirrored(half, 3)], details=[ellipse(0.5, 0.055, 0.095, 0.022)])


def bag(shape: float) -> Outline:
    """A bag with handles; the rounder, the wider and softer."""
    wide, top = 0.27 + 0.14 * shape, 0.4 - 0.04 * shape
    body = ellipse(0.5, (top + 0.95) / 2, wide, (0.95 - top) / 2, power=7 - 3.5 * shape)
    handle = ellipse(0.5, top + 0.05, wide * 0.6, 0.31)
    hole = ellipse(0.5, top + 0.05, wide * 0.6 - 0.045, 0.265)
    hole = hole[hole[:, 1] < top + 0.015]
    seam = ellipse(0.5, top + 0.035, wide * 0.9, 0.012, power=6)
    return Outline([handle, body], holes=[hole], details=[seam])


def cushion(shape: float) -> Outline:
    """A cushion; square with sharp corners to round."""
    power = 2.0 + 5.0 * (1 - shape) ** 2
    knob = ellipse(0.5, 0.5, 0.022, 0.022)
    return Outline([ellipse(0.5, 0.52, 0.42, 0.42 - 0.06 * shape, power)], details=[knob])


def lamp(shape: float) -> Outline:
    """A table lamp; the rounder, the wider its shade and foot."""
    narrow, wide = 0.1 + 0.14 * shape, 0.27 + 0.13 * shape
    shade = mirrored([(0, 0.06), (narrow, 0.06), (wide, 0.5), (0, 0.5)], 0)
    stem = mirrored([(0, 0.49), (0.025, 0.49), (0.025, 0.88), (0, 0.88)], 0)
    foot = ellipse(0.5, 0.9, 0.13 + 0.06 * shape, 0.05)
    return Outline([shade, stem, foot], details=[stem, foot])


SHAPES: tuple[Callable[[float], Outline], ...] = (shirt, mug, dress, vase, bag, cushion, lamp)
"""What the categories are, in turn; each of a shape from 0, slender, to 1, round."""
