"""Values of samples to stored features: the one place that checks what is written."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from amstf.errors import SampleError
from amstf.schema import DENSE, IMAGE, NO_ID, WEIGHTED_SPARSE, Field

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)

Encoder: TypeAlias = Callable[[Mapping[str, Any], Any], None]


def encoder(field: Field) -> Encoder:
    """Returns what checks a sample's value of a stored field and puts it into features by name.

    It takes a sample and the map of `tf.train.Features`, and raises SampleError if the value does
    not fit.
    """
    name, is_image = field.name, field.kind == IMAGE
    if field.kind not in ("sparse", WEIGHTED_SPARSE, IMAGE, "group"):
        length = field.length if field.kind == DENSE else 1

        def encode_floats(sample: Mapping[str, Any], feature: Any) -> None:
            values = _floats(name, _required(sample, name))
            if len(values) != length:
                raise SampleError(f"field {name!r}: got {len(values)} values, wanted {length}")
            feature[name].float_list.value.extend(values)

        return encode_floats

    check = _strings if field.dtype == "string" else _image_ids if is_image else _ids

    def put(feature: Any, values: list) -> None:
        if field.dtype == "string":
            feature[name].bytes_list.value.extend(values)
        else:
            feature[name].int64_list.value.extend(values)

    def encode_one(sample: Mapping[str, Any], feature: Any) -> None:
        value = sample.get(name) if is_image else _required(sample, name)
        if value is None:
            value = NO_ID
        if isinstance(value, (list, tuple, np.ndarray)) and np.shape(value) != ():
            raise SampleError(
                f"field {name!r}: got {_short(value)}, wanted one id; lists need is_list=True"
            )
        put(feature, check(name, (value,)))

    def encode_list(sample: Mapping[str, Any], feature: Any) -> None:
        values = sample.get(name, ()) if is_image else _required(sample, name)
        if not isinstance(values, (list, tuple)) and np.ndim(values) != 1:
            raise SampleError(f"field {name!r}: got {_short(values)}, wanted a list of ids")
        ids = check(name, values)
        put(feature, ids)
        if field.kind == WEIGHTED_SPARSE:
            weights = _floats(field.weight_name, _required(sample, field.weight_name))
            if len(weights) != len(ids):
                raise SampleError(
                    f"field {name!r}: got {len(ids)} ids and {len(weights)} weights; "
                    "each id needs one weight"
                )
            feature[field.weight_name].float_list.value.extend(weights)

    return encode_list if field.is_list else encode_one


def _required(sample: Mapping[str, Any], name: str) -> Any:
    value = sample.get(name)
    if value is None:
        raise SampleError(f"field {name!r}: got nothing; the sample needs a value for it")
    return value


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _ids(name: str, values: Any) -> list[int]:
    if isinstance(values, np.ndarray):
        if values.size and values.dtype.kind not in "iu":
            raise SampleError(f"field {name!r}: got {values.dtype} values, wanted whole numbers")
        values = values.tolist()
    ids = []
    for value in values:
        try:
            ids.append(operator.index(value))
        except TypeError:
            raise SampleError(
                f"field {name!r}: got {_short(value)}, wanted a whole number"
            ) from None
    if ids and (min(ids) < _INT64_MIN or max(ids) > _INT64_MAX):
        wrong = min(ids) if min(ids) < _INT64_MIN else max(ids)
        raise SampleError(f"field {name!r}: got {wrong}, which does not fit into 64 bits")
    return ids


def _image_ids(name: str, values: Any) -> list[int]:
    ids = _ids(name, values)
    if ids and min(ids) < NO_ID:
        raise SampleError(
            f"field {name!r}: got image id {min(ids)}; ids start at 0, and {NO_ID} means no image"
        )
    return ids


def _strings(name: str, values: Any) -> list[bytes]:
    strings = []
    for value in values:
        if isinstance(value, str):
            value = value.encode("utf-8")
        if not isinstance(value, bytes):
            raise SampleError(f"field {name!r}: got {_short(value)}, wanted a string")
        strings.append(value)
    return strings


def _floats(name: str, value: Any) -> list[float]:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        values = np.asarray(value)
        if values.dtype.kind not in "biuf" or values.ndim > 1:
            raise TypeError
    except (TypeError, ValueError):
        raise SampleError(
            f"field {name!r}: got {_short(value)}, wanted a number or a list of numbers"
        ) from None
    floats = values.reshape(-1).tolist()
    for number in floats:
        if not math.isfinite(number) or abs(number) > _FLOAT32_MAX:
            raise SampleError(f"field {name!r}: got {number}, wanted a finite float32")
    return floats
