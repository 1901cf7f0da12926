"""What a store says about how its features were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECISIVE = (
    "backbone", "backbone_arguments", "layer", "weights_sha256", "pooling", "preprocessing",
    "image_size", "fit",
)  # fmt: skip
"""Attributes that decide the features: where they differ, features are not comparable."""


def difference(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Says in which of the wanted attributes two stores differ; "" if in none.

    Example:
        >>> difference({"layer": "fc1", "made_by": "x"}, {"layer": "fc2"})
        'layer fc1 (now fc2)'
    """
    return ", ".join(
        f"{name} {kept.get(name, 'unknown')} (now {value})"
        for name, value in wanted.items()
        if kept.get(name) != value
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
