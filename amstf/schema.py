"""The schema: which fields a sample has, of which kind, and how models see them.

One `Schema` drives the sample writer, the reader, the inputs of the models and the serving
signature, so that a field is described once. It is stored beside the data as `schema.json`.

Shape letters used everywhere in this project: B batch, T behaviours of a user, U distinct images of
a step, F raw image feature width, D embedding width, S servers, W workers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from amstf import files
from amstf.errors import SchemaError

SPARSE = "sparse"
WEIGHTED_SPARSE = "weighted_sparse"
DENSE = "dense"
IMAGE = "image"
LABEL = "label"
GROUP = "group"
EXTRA = "extra"
KINDS = (SPARSE, WEIGHTED_SPARSE, DENSE, IMAGE, LABEL, GROUP, EXTRA)
SIDES = ("user", "ad", "context")
COMBINERS = ("sum", "mean")

# The models see fields of these kinds; labels, groups and extras only travel beside them.
INPUT_KINDS = (SPARSE, WEIGHTED_SPARSE, DENSE, IMAGE)
ID_KINDS = (SPARSE, WEIGHTED_SPARSE, IMAGE, GROUP)

NO_ID = -1
"""Padding of id lists, and "this sample has no image"."""

WEIGHT_SUFFIX = ".weight"
_MAX_INT64 = 2**63 - 1
_MAX_FLOATS = 1 << 24  # 64 MB a sample; a parser reserves that for each sample of a batch.
SCHEMA_FILE = "schema.json"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a sample.

    Attributes:
        name: Key of the field in a batch and in the inputs of a model.
        kind: One of `KINDS`. `sparse` int64 ids (or strings) that get an embedding;
            `weighted_sparse` the same with a float weight for each id; `dense` floats; `image` ids
            of images in an image store, -1 for none; `label` the target; `group` the key whose
            impressions GAUC compares (the user); `extra` a float that travels with the sample
            and is never an input (for example the true click probability of synthetic data).
        side: "user", "ad" or "context": whose property it is. The two-tower models and the common
            features of a group follow it.
        is_list: Whether a sample holds any number of values ([B, T], padded with -1) instead of
            one ([B]). The newest value comes first. Only for ids.
        max_length: Longest list, in values; the reader keeps the first (newest) ones.
        length: Floats per sample of a dense field.
        dtype: "int64" or "string", of ids. Strings need `hash_size` or `dynamic`.
        vocabulary_size: Ids are 0 .. vocabulary_size - 1; any other id counts as unknown.
        hash_size: Ids are hashed into this many buckets.
        dynamic: Ids are any 64-bit numbers, or strings; each gets a row of its own when training
            first sees it (`amstf.DynamicEmbedding`).
        embedding_width: Floats per embedding.
        combiner: How the embeddings of a list become one: "sum" or "mean".
        table: Name of the embedding table; fields that name the same table share it.
        source: Name of the stored field to read the values from. For a field that sees values
            which another field already stores (for example the ids of images as sparse ids).
        store: Name of the image store that an image field refers to.

    Raises:
        SchemaError: If the attributes contradict each other.

    Example:
        >>> Field("genres", "sparse", side="ad", is_list=True, vocabulary_size=19).is_list
        True
    """

    name: str
    kind: str
    side: str = "context"
    is_list: bool = False
    max_length: int | None = None
    length: int = 1
    dtype: str = "int64"
    vocabulary_size: int | None = None
    hash_size: int | None = None
    dynamic: bool = False
    embedding_width: int = 12
    combiner: str = "sum"
    table: str | None = None
    source: str | None = None
    store: str | None = None

    def __post_init__(self) -> None:
        def refuse(problem: str) -> None:
            raise SchemaError(f"field {self.name!r}: {problem}")

        if not isinstance(self.name, str) or not self.name:
            raise SchemaError(f"a field's name must be a non-empty string, got {self.name!r}")
        for attribute in ("table", "source", "store"):
            value = getattr(self, attribute)
            if value is not None and (not isinstance(value, str) or not value):
                refuse(f"{attribute} must be a non-empty string, got {value!r}")
        for attribute in ("is_list", "dynamic"):
            value = getattr(self, attribute)
            if not isinstance(value, bool):
                refuse(f"{attribute} must be true or false, got {value!r}")
        if self.name.endswith(WEIGHT_SUFFIX):
            refuse(f"a name must not end in {WEIGHT_SUFFIX!r}, which names the weights of a field")
        for attribute, allowed in (("kind", KINDS), ("side", SIDES), ("combiner", COMBINERS)):
            value = getattr(self, attribute)
            if value not in allowed:
                refuse(f"{attribute} is {value!r}; use one of {', '.join(allowed)}")
        if self.dtype not in ("int64", "string"):
            refuse(f"dtype is {self.dtype!r}; ids are 'int64' or 'string'")
        if self.dtype == "string" and self.kind == IMAGE:
            refuse("image ids are int64, got dtype 'string'")
        for attribute, limit in (
            ("max_length", _MAX_INT64),
            ("length", _MAX_FLOATS),
            ("vocabulary_size", _MAX_INT64),
            ("hash_size", _MAX_INT64),
            ("embedding_width", _MAX_FLOATS),
        ):
            value = getattr(self, attribute)
            optional = attribute not in ("length", "embedding_width")
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                refuse(f"{attribute} must be a whole number of at least 1, got {value!r}")
            if value > limit:
                refuse(f"{attribute} must be at most {limit:,}, got {value:,}")
        if self.kind in (SPARSE, WEIGHTED_SPARSE):
            sizes = (self.vocabulary_size is not None) + (self.hash_size is not None)
            if sizes + self.dynamic != 1:
                refuse("give exactly one of vocabulary_size, hash_size and dynamic")
            if self.dtype == "string" and self.vocabulary_size is not None:
                refuse("string ids need hash_size, or dynamic")
        elif self.vocabulary_size or self.hash_size or self.dynamic:
            refuse(
                "vocabulary_size, hash_size and dynamic are for sparse fields, this one is "
                f"{self.kind}"
            )
        if self.is_list and self.kind not in (SPARSE, WEIGHTED_SPARSE, IMAGE):
            refuse(f"is_list is for sparse and image fields, this one is {self.kind}")
        if self.kind == WEIGHTED_SPARSE and not self.is_list:
            refuse("a weighted sparse field is a list; set is_list=True")
        if self.max_length is not None and not self.is_list:
            refuse("max_length needs is_list=True")
        if self.length != 1 and self.kind != DENSE:
            refuse(f"length is for dense fields, this one is {self.kind}; lists use is_list")
        if self.store is not None and self.kind != IMAGE:
            refuse(f"store is for image fields, this one is {self.kind}")

    @property
    def stored_name(self) -> str:
        """Key of the feature in the stored sample."""
        return self.source or self.name

    @property
    def weight_name(self) -> str:
        """Key of the weights of a weighted sparse field in a batch."""
        return self.name + WEIGHT_SUFFIX

    @property
    def is_common(self) -> bool:
        """Whether all impressions of a group share the value: inputs of the user, group keys."""
        return self.kind == GROUP or (self.side == "user" and self.kind in INPUT_KINDS)

    @property
    def table_name(self) -> str:
        """Name of the embedding table of a sparse field."""
        return self.table or self.name

    @property
    def store_name(self) -> str:
        """Name of the image store of an image field."""
        return self.store or "images"

    @property
    def num_ids(self) -> int:
        """Rows that the table of a sparse field needs, without unknown ids; 0 if it is dynamic."""
        return self.vocabulary_size or self.hash_size or 0


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of a data set, in order.

    Attributes:
        fields: The fields.
        item: Name of the field that says which item an impression shows; evaluation uses it to
            tell items that training has seen from those it has not.

    Raises:
        SchemaError: If names repeat, a source is missing, or tables that share a name differ.

    Example:
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> [field.name for field in schema.inputs]
        ['user']
    """

    fields: tuple[Field, ...]
    item: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        if self.item is not None and not isinstance(self.item, str):
            raise SchemaError(f"item must be the name of a field, got {self.item!r}")
        seen: dict[str, Field] = {}
        for field in self.fields:
            if field.name in seen:
                raise SchemaError(f"field {field.name!r} stands twice in the schema")
            seen[field.name] = field
        for field in self.fields:
            self._check_source(field, seen)
        if not self.of_kind(LABEL):
            raise SchemaError("the schema has no field of kind 'label'")
        if self.item is not None and self.item not in seen:
            raise SchemaError(f"item names field {self.item!r}, fields are {', '.join(seen)}")
        tables: dict[str, Field] = {}
        for field in self.of_kind(SPARSE, WEIGHTED_SPARSE):
            first = tables.setdefault(field.table_name, field)
            for attribute in (
                "vocabulary_size",
                "hash_size",
                "dynamic",
                "embedding_width",
                "dtype",
            ):
                if getattr(first, attribute) != getattr(field, attribute):
                    raise SchemaError(
                        f"fields {first.name!r} and {field.name!r} share the table "
                        f"{field.table_name!r} but differ in {attribute}"
                    )

    @staticmethod
    def _check_source(field: Field, fields: dict[str, Field]) -> None:
        if field.source is None:
            return
        source = fields.get(field.source)
        if source is None or source.source is not None:
            raise SchemaError(
                f"field {field.name!r}: source {field.source!r} is not a stored field of the schema"
            )
        both_ids = field.kind in ID_KINDS and source.kind in ID_KINDS
        if not both_ids or WEIGHTED_SPARSE in (field.kind, source.kind):
            raise SchemaError(
                f"field {field.name!r} of kind {field.kind} cannot read {source.name!r} of kind "
                f"{source.kind}; a source and its reader hold plain ids"
            )
        if field.is_list != source.is_list or field.dtype != source.dtype:
            raise SchemaError(
                f"field {field.name!r} and its source {source.name!r} differ in is_list or dtype"
            )

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        known = ", ".join(field.name for field in self.fields)
        raise KeyError(f"the schema has no field {name!r}; its fields are {known}")

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    def of_kind(self, *kinds: str, side: str | None = None) -> tuple[Field, ...]:
        """Returns the fields of these kinds (and of this side, if given), in order."""
        return tuple(
            field
            for field in self.fields
            if field.kind in kinds and (side is None or field.side == side)
        )

    @property
    def inputs(self) -> tuple[Field, ...]:
        """The fields that a model may take as inputs."""
        return self.of_kind(*INPUT_KINDS)

    @property
    def stored(self) -> tuple[Field, ...]:
        """The fields whose values are written into samples."""
        return tuple(field for field in self.fields if field.source is None)

    @property
    def labels(self) -> tuple[Field, ...]:
        """The label fields; the first one is the click."""
        return self.of_kind(LABEL)

    @property
    def group(self) -> Field | None:
        """The group key, if the schema has one."""
        groups = self.of_kind(GROUP)
        return groups[0] if groups else None

    def without(self, names: Iterable[str]) -> Schema:
        """Returns a schema that lacks the named fields (and keeps the sources others read)."""
        names = set(names)
        return dataclasses.replace(
            self, fields=tuple(f for f in self.fields if f.name not in names)
        )

    def to_json(self) -> str:
        """Returns the schema as JSON text; attributes at their default are left out."""
        defaults = {f.name: f.default for f in dataclasses.fields(Field)}
        rows = [
            {k: v for k, v in dataclasses.asdict(field).items() if v != defaults.get(k)}
            for field in self.fields
        ]
        return json.dumps({"version": 1, "item": self.item, "fields": rows}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "schema") -> Schema:
        """Reads a schema from JSON text.

        Args:
            text: What `to_json` wrote.
            where: Name of the text's origin, for error messages.

        Raises:
            SchemaError: If the text is not a schema; the message names `where`.
        """
        try:
            content: dict[str, Any] = files.parse_json(text)
            if content["version"] != 1:
                raise SchemaError(f"version is {content['version']!r}; this program reads 1")
            known = {f.name for f in dataclasses.fields(Field)}
            for row in content["fields"]:
                for key in row.keys() - known:
                    raise SchemaError(f"field {row.get('name')!r} has an unknown attribute {key!r}")
            return cls(tuple(Field(**row) for row in content["fields"]), item=content.get("item"))
        except SchemaError as error:
            raise SchemaError(f"{where}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"{where} is not a schema file: {error!r}") from error

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `schema.json` into the directory."""
        pathlib.Path(directory, SCHEMA_FILE).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Schema:
        """Reads `schema.json` of a data set directory."""
        path = files.join(directory, SCHEMA_FILE)
        try:
            text = files.read_text(path)
        except FileNotFoundError as error:
            raise SchemaError(f"{path} does not exist; is {directory} a data set?") from error
        except (OSError, ValueError) as error:
            raise SchemaError(f"{path} cannot be read: {error}") from error
        return cls.from_json(text, where=path)
