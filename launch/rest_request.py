"""An example request to TF Serving's REST interface."""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from amstf.data import parse_batch
from amstf.export import input_names
from amstf.schema import Schema


def write_rest_request(path: pathlib.Path, schema: Schema, examples: Sequence[bytes]) -> None:
    """Writes the body of a `:predict` request that asks about some samples.

    Args:
        path: JSON file to write.
        schema: The fields of a batch.
        examples: Serialized samples.
    """
    batch = parse_batch(tf.constant(list(examples)), schema.inputs)
    names = input_names(schema)
    columns = {names[key]: value.numpy() for key, value in batch.items()}
    instances = [
        {name: _to_json(values[k]) for name, values in columns.items()}
        for k in range(len(examples))
    ]
    path.write_text(json.dumps({"instances": instances}) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_to_json(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value.item()
