"""Data sets of ids 0, 1, 2 ... whose users and items get dynamic tables in the models."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection

from amstf.schema import Schema

IDENTITIES = ("user", "item", "movie", "behaviours", "image_id")
"""Tables of ids that come and go, unlike those of a gender or a genre."""


def make_dynamic(directory: str | os.PathLike[str], tables: Collection[str] = IDENTITIES) -> None:
    """Gives the ids of some tables no vocabulary: it is the models' matter, not the records'.

    Args:
        directory: A data set.
        tables: Names of tables; those that the schema has not are passed over.
    """
    schema = Schema.load(directory)
    fields = tuple(
        dataclasses.replace(field, vocabulary_size=None, dynamic=True)
        if field.vocabulary_size and field.table_name in tables
        else field
        for field in schema.fields
    )
    dataclasses.replace(schema, fields=fields).save(directory)
