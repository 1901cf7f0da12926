"""What a store says about how its features were made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DECISIVE = (
    "backbone", "backbone_arguments", "layer", "weights_sha256", "pooling", "preprocessing",
    "image_size", "fit", "standardised", "pca_width", "fitted_on",
)  # fmt: skip
"""Attributes that decide the features: where they differ, features are not comparable."""


def difference(
    kept: Mapping[str, Any], wanted: Mapping[str, Any], names: Iterable[str] = DECISIVE
) -> str:
    """Says in which of the named attributes two stores differ; "" if in none.

    Example:
        >>> difference({"layer": "fc1", "made_by": "x"}, {"layer": "fc2"})
        'layer fc1 (now fc2)'
    """
    return ", ".join(
        f"{name} {kept.get(name, 'unknown')} (now {wanted.get(name, 'unknown')})"
        for name in names
        if kept.get(name) != wanted.get(name)
    )


def common(all_attributes: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the attributes on which all stores agree.

    Example:
        >>> common([{"layer": "fc1", "images": "A"}, {"layer": "fc1", "images": "B"}])
        {'layer': 'fc1'}
    """
    first, *others = all_attributes
    return {
        name: value
        for name, value in first.items()
        if all(name in other and _same(other[name], value) for other in others)
    }


def _same(one: Any, other: Any) -> bool:
    return str(one) == str(other)  # Also for arrays, whose == has no single answer.
