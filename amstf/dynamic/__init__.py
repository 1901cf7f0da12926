"""Tables of ids without a vocabulary, in this process or on the parameter servers."""

from amstf.dynamic import checkpoint as _checkpoint  # noqa: F401 - registers itself
from amstf.dynamic.options import Admission, TableLimit, TableOptions
from amstf.dynamic.static_rows import StaticRows, index_of
from amstf.dynamic.table import DynamicTable, table_of

__all__ = [
    "Admission",
    "DynamicTable",
    "StaticRows",
    "TableLimit",
    "TableOptions",
    "index_of",
    "table_of",
]
