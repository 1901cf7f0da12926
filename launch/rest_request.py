"""An example request to TF Serving's REST interface."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import numpy as np

from amstf.schema import Schema
from amstf.signatures import EMBEDDING_SUFFIX, PREDICT, Batch, input_names


def write_rest_request(path: pathlib.Path, schema: Schema, batch: Batch) -> None:
    """Writes the body of a `:predict` request that asks about some samples.

    Args:
        path: JSON file to write.
        schema: The fields of a batch.
        batch: The samples, with embeddings of their images if the export takes these.
    """
    given = [key.removesuffix(EMBEDDING_SUFFIX) for key in batch if key.endswith(EMBEDDING_SUFFIX)]
    names = input_names(schema, given)
    columns = {names[key]: value.numpy() for key, value in batch.items()}
    instances = [
        {name: _to_json(values[k]) for name, values in columns.items()}
        for k in range(len(next(iter(columns.values()))))
    ]
    request = {"signature_name": PREDICT, "instances": instances}
    path.write_text(json.dumps(request) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_to_json(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value.item()
