"""CrossMedia's text of samples, one impression a line: reading, and what a line says.

    skey|gkey|USER|AD|LABELS|timestamp
    skey0|gkey0|user0@206:0.14,851:0.31;user_img0@386:0.06|ad0@0.96;ad_img0@919:0.45|1|1545000000

USER and AD are features `name@value` between `;`, a value is ids with weights (`id:weight`) or
floats between `,`, LABELS are floats between `,`. Files are read line by line, plain or .gz, so
that their size does not matter.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from amstf import files
from amstf.errors import SampleError
from launch.datasets.columns import Rows

MAX_LINE_BYTES = 16 << 20
"""Longest line: about a million weighted ids."""

_FORM = "skey|gkey|USER|AD|LABELS|timestamp"
# Of one form each, so that a text that does not match is found out in linear time.
_WHOLE = r"-?[0-9]{1,19}"
_FLOAT = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?"
_IDS = re.compile(rf"{_WHOLE}(?::{_FLOAT})?(?:,{_WHOLE}(?::{_FLOAT})?)*")
_PLAIN_IDS = re.compile(rf"{_WHOLE}(?:,{_WHOLE})*")
_FLOATS = re.compile(rf"{_FLOAT}(?:,{_FLOAT})*")
_TIME = re.compile(_WHOLE)
_UPDATE_LINES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Impression:
    """One line.

    Attributes:
        rows: Where the line is from, with `index`.
        index: Of the line in its file, from 0.
        skey: Key of the sample.
        gkey: Key of the group whose USER part is common.
        user: Name -> value, as text, of the features of the user.
        ad: Likewise, of the ad.
        labels: As they stand there.
        time: The timestamp.
    """

    rows: Rows
    index: int
    skey: str
    gkey: str
    user: Mapping[str, str]
    ad: Mapping[str, str]
    labels: tuple[float, ...]
    time: int

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return self.rows[self.index]


def read_impressions(paths: Sequence[str], doing: str) -> Iterator[Impression]:
    """Reads files of samples line by line.

    Args:
        paths: The files in order; gzip if the name ends with .gz.
        doing: What the bar of the bytes read says.

    Raises:
        SampleError: Naming file and line, if one cannot be read or is no impression.
    """
    sizes = [_size(path) for path in paths]
    with tqdm(None, doing, sum(sizes), disable=None, unit="B", unit_scale=True) as progress:
        for path in paths:
            yield from _impressions_of(path, progress)


def parse(text: bytes, rows: Rows, index: int) -> Impression:
    """Reads a line.

    Args:
        text: The line, with or without its end.
        rows: Where it is from.
        index: Of the line, from 0.

    Raises:
        SampleError: Naming file and line, if it is no impression. Values of features are not read
            yet: what they should be is not known here.

    Example:
        >>> line = b"s|g|user0@7:0.5|ad0@0.25|1,0|1545000000"
        >>> impression = parse(line, Rows("data.txt", what="line"), 0)
        >>> impression.user, impression.labels
        ({'user0': '7:0.5'}, (1.0, 0.0))
    """

    def refuse(problem: str) -> SampleError:
        return SampleError(f"{rows[index]}: {problem}")

    try:
        line = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(f"byte {error.start + 1} is no UTF-8; wanted text, {_FORM}") from None
    parts = line.rstrip("\r\n").split("|")
    if len(parts) != 6:
        what = "an empty line" if parts == [""] else f"{len(parts)} parts between '|'"
        raise refuse(f"got {what}, wanted 6: {_FORM}")
    skey, gkey, user_part, ad_part, labels, time = parts
    if not gkey:
        raise refuse(f"the group key is empty; wanted {_FORM}")
    try:
        user, ad = _features(user_part), _features(ad_part)
        for name in user.keys() & ad.keys():
            raise ValueError(f"feature {name!r} is both USER's and AD's; give each a name")
    except ValueError as error:
        raise refuse(str(error)) from None
    if not _FLOATS.fullmatch(labels):
        raise refuse(f"labels are {_shown(labels)}, wanted numbers between ',' such as 1,0")
    if not _TIME.fullmatch(time):
        raise refuse(f"the timestamp is {_shown(time)}, wanted a whole number such as 1545000000")
    numbers = tuple(map(float, labels.split(",")))
    return Impression(rows, index, skey, gkey, user, ad, numbers, int(time))


def weighted_ids(value: str) -> tuple[list[int], list[float]]:
    """Reads a sparse value; an id without weight has weight 1, an empty value no id.

    Raises:
        ValueError: Saying which part is none.

    Example:
        >>> weighted_ids("206:0.14,851")
        ([206, 851], [0.14, 1.0])
    """
    if not value:
        return [], []
    parts = value.split(",")
    if not _IDS.fullmatch(value):
        wrong = next(part for part in parts if not _IDS.fullmatch(part))
        raise ValueError(f"got {_shown(wrong)}, wanted id:weight such as 206:0.14")
    ids, weights = [], []
    for part in parts:
        whole, _, weight = part.partition(":")
        ids.append(int(whole))
        weights.append(float(weight) if weight else 1.0)
    return ids, weights


def floats(value: str) -> list[float]:
    """Reads a dense value.

    Raises:
        ValueError: Saying which part is no number.

    Example:
        >>> floats("0.96,-1e-3")
        [0.96, -0.001]
    """
    parts = value.split(",")
    if not _FLOATS.fullmatch(value):
        wrong = next(part for part in parts if not _FLOATS.fullmatch(part))
        raise ValueError(f"got {_shown(wrong)}, wanted a number such as 0.96")
    return list(map(float, parts))


def check(value: str) -> None:
    """Does what `weighted_ids` or `floats` does of a value that may be either, and returns nothing.

    Raises:
        ValueError: Saying which part is none.
    """
    is_sparse = ":" in value
    if value and not (_IDS if is_sparse else _FLOATS).fullmatch(value):
        (weighted_ids if is_sparse else floats)(value)


def are_plain_ids(value: str) -> bool:
    """Whether a value is whole numbers alone, which are ids or floats.

    Example:
        >>> are_plain_ids("1,20"), are_plain_ids("1.5"), are_plain_ids("3:0.5")
        (True, False, False)
    """
    return _PLAIN_IDS.fullmatch(value) is not None


def _features(part: str) -> dict[str, str]:
    features: dict[str, str] = {}
    for feature in part.split(";") if part else ():
        name, at, value = feature.partition("@")
        if not at or not name:
            raise ValueError(f"got the feature {_shown(feature)}, wanted name@value")
        if name in features:
            raise ValueError(f"feature {_shown(name)} stands twice; join its values with ','")
        features[name] = value
    return features


def _impressions_of(path: str, progress: tqdm) -> Iterator[Impression]:
    rows, index, done = Rows(path, what="line"), 0, 0
    with open(path, "rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        while True:
            try:
                text = stream.readline(MAX_LINE_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise SampleError(f"{rows[index]} cannot be read: {error}") from error
            if len(text) > MAX_LINE_BYTES:
                raise SampleError(
                    f"{rows[index]}: longer than {MAX_LINE_BYTES:,} bytes; wanted lines {_FORM}"
                )
            if text:
                yield parse(text, rows, index)
                index += 1
            if not text or not index % _UPDATE_LINES:
                progress.update(raw.tell() - done)
                done = raw.tell()
            if not text:
                break
    if not index:
        raise SampleError(f"{path} is empty; wanted lines {_FORM}")


def _size(path: str) -> int:
    try:
        return files.size(path)  # A pipe would be waited for without end, and is read twice.
    except (OSError, ValueError) as error:
        raise SampleError(f"{path} cannot be read ({error}); --samples names files") from error


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
