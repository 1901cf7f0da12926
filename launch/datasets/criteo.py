"""Criteo's display advertising log: a click, 13 numbers, 26 values, between tabs (Kaggle 2014).

The files have no header. A field that is empty is missing: a value of its own, and of a number the
mean, or bucket 0. What the columns mean is not published, so all are of the context. Files between
commas are read too: so come samples of the log whose values are numbered already.
"""

from launch.datasets.click_log import ClickLog

_NUMBERS = tuple(f"I{k}" for k in range(1, 14))
_VALUES = tuple(f"C{k}" for k in range(1, 27))

CRITEO = ClickLog(
    title="Criteo log",
    form="40 columns between tabs without a header: label, I1 to I13, C1 to C26",
    names=("click", *_NUMBERS, *_VALUES),
    delimiters="\t,",
    numbers=dict.fromkeys(_NUMBERS, "context"),
    values=dict.fromkeys(_VALUES, "context"),
)
