"""Avazu's log of mobile ads: a click and 22 values, comma-separated with a header (Kaggle 2014).

`hour` is YYMMDDHH and becomes the hour of the day and the day of the week. `id` is left out: no two
rows share one. The device is the user's side; what C1 and C14 to C21 mean is not published.
"""

from __future__ import annotations

import datetime

import numpy as np

from amstf.errors import SampleError
from amstf.schema import Field
from launch.datasets.click_log import ClickLog
from launch.datasets.columns import texts
from launch.datasets.log_files import Block

_USER = ("device_id", "device_ip", "device_model", "device_type", "device_conn_type")
_CONTEXT = (
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    *(f"C{k}" for k in range(14, 22)),
)


def _derive(block: Block) -> dict[str, np.ndarray]:
    """Makes the hour, 0 to 23, and the day of the week, 0 for Monday."""
    # A log has few hours and many rows.
    coded = texts(block.columns["hour"]).dictionary_encode()
    times = []
    for text in coded.dictionary.to_pylist():
        try:
            times.append(datetime.datetime.strptime(text, "%y%m%d%H"))
        except ValueError:
            index = texts(block.columns["hour"]).to_pylist().index(text)
            raise SampleError(
                f"{block.rows[index]}: column 'hour' is {text!r}, wanted YYMMDDHH"
            ) from None
    places = coded.indices.to_numpy()
    hours = np.array([time.hour for time in times], np.int64)
    weekdays = np.array([time.weekday() for time in times], np.int64)
    return {"hour": hours[places], "weekday": weekdays[places]}


AVAZU = ClickLog(
    title="Avazu log",
    form="24 columns between commas with a header: id, click, hour, C1, banner_pos, ...",
    values={**dict.fromkeys(_CONTEXT, "context"), **dict.fromkeys(_USER, "user")},
    derived=(
        Field("hour", "sparse", vocabulary_size=24),
        Field("weekday", "sparse", vocabulary_size=7),
    ),
    derived_from=("hour",),
    derive=_derive,
)
