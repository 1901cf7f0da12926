"""Tables as data sets: logs of clicks in CSV or Parquet files whose columns a person names.

What a column is, is said (`price:number:ad`) or seen from its type: floats are numbers, whole
numbers and text are values that get ids, lists are lists of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pyarrow as pa

from amstf.errors import ConfigError
from amstf.schema import SIDES
from launch.datasets.click_log import ClickLog
from launch.datasets.log_files import LogFormat, checked, column_types

NUMBER, ID, IDS, IMAGE, IMAGES = KINDS = ("number", "id", "ids", "image", "images")
"""What a column holds: a number, a value that gets an id, a list of those, the id of an image, a
list of those."""

_SIDES = {IMAGE: "ad", IMAGES: "user"}  # Where models look for images; of others "context".
_KEYS = {NUMBER: "numbers", ID: "values", IDS: "lists", IMAGE: "images", IMAGES: "image_lists"}
_FORMAT = LogFormat(
    title="table",
    form="Parquet, or text with a header and equally many values in each row",
    delimiters="\t,;|",
    has_quotes=True,
)


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """What the columns of a table are.

    Attributes:
        fields: Column -> its kind, one of `KINDS`, and side; "" to find out. None for all columns.
        labels: Columns of labels, the click first.
        label_threshold: A label is 1 above it; None if labels are 0 and 1.
        group: Column of the key whose impressions belong together, the user's; "" for none.
        time: Column of times; "" for none.
        item: Column that says which item an impression shows; "" for none.
        separator: What is between the values of a list in a text file.
    """

    fields: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ("click",)
    label_threshold: float | None = None
    group: str = ""
    time: str = ""
    item: str = ""
    separator: str = " "

    def __post_init__(self) -> None:
        if not self.labels or not self.separator:
            raise ConfigError("a table needs at least one label, and a separator of lists")


def parse_fields(fields: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Reads the columns that a person names: `name`, `name:kind` or `name:kind:side`.

    Raises:
        ConfigError: If a kind or side is none, or a name stands twice.

    Example:
        >>> parse_fields(["user:id:user", "price:number", "hour"])
        {'user': ('id', 'user'), 'price': ('number', ''), 'hour': ('', '')}
    """
    found: dict[str, tuple[str, str]] = {}
    for field in fields:
        name, kind, side, *more = [*field.split(":"), "", ""]
        is_good = kind in ("", *KINDS) and side in ("", *SIDES) and not any(more)
        if not name or name in found or not is_good:
            raise ConfigError(
                f"--fields: got {field!r}, wanted COLUMN, COLUMN:KIND or COLUMN:KIND:SIDE, each "
                f"once; kinds are {', '.join(KINDS)}, sides {', '.join(SIDES)}"
            )
        found[name] = kind, side
    return found


def table_log(config: TableConfig, sources: Sequence[str], has_images: bool) -> ClickLog:
    """Returns what a table is as a log of clicks, with what the first file shows of its columns.

    Args:
        config: What a person says.
        sources: The files.
        has_images: Whether there is a store that columns of images refer to.

    Raises:
        SampleError: If the first file cannot be read.
        ConfigError: If it lacks a column, or has one of a type that no field is of.
    """
    types = column_types(_FORMAT, checked(sources)[0])
    special = [*config.labels, *(name for name in (config.group, config.time) if name)]
    unknown = [name for name in (*special, *config.fields) if name not in types]
    if unknown:
        raise ConfigError(
            f"{sources[0]} has no column {', '.join(map(repr, unknown))}; its columns are "
            f"{', '.join(types)}"
        )
    fields = config.fields or {n: ("", "") for n in types if n not in (*special, config.item)}
    if config.item and config.item not in fields:
        fields = {**fields, config.item: ("", "ad")}
    columns: dict[str, dict[str, str]] = {key: {} for key in _KEYS.values()}
    for name, (kind, side) in fields.items():
        if name in config.labels:
            raise ConfigError(f"--fields: {name!r} is a label, which no model may see")
        kind = kind or _kind_of(sources[0], name, types[name])
        if kind in (IMAGE, IMAGES) and not has_images:
            raise ConfigError(f"--fields={name}:{kind} needs --images, the store that has them")
        columns[_KEYS[kind]][name] = side or _SIDES.get(kind, "context")
    if has_images and not (columns["images"] or columns["image_lists"]):
        raise ConfigError(
            "--images: no column is of images; say which with --fields=COLUMN:image,..."
        )
    return ClickLog(
        **{field.name: getattr(_FORMAT, field.name) for field in dataclasses.fields(LogFormat)},
        labels=config.labels,
        label_threshold=config.label_threshold,
        group=config.group,
        time=config.time,
        item=config.item,
        separator=config.separator,
        **columns,
    )


def _kind_of(path: str, name: str, kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if is_number:
        return NUMBER
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return IDS
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    # Nothing but nulls at the beginning of a text file may be anything.
    if is_text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return ID
    raise ConfigError(
        f"{path}: column {name!r} is {kind}, of which no field is made by itself; say what it is "
        f"with --fields={name}:id,... or leave it out by naming the others"
    )
