"""What the features of CrossMedia's samples are, which their text does not say.

A first pass over the samples looks at how each feature is written: `id:weight` is sparse, a text of
equally many numbers in all lines is dense. What people know better they say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from amstf.errors import ConfigError, SampleError
from amstf.schema import DENSE, IMAGE, SPARSE
from launch.datasets.crossmedia_text import Impression, are_plain_ids, check
from launch.datasets.number_columns import UniformSample

KINDS = (SPARSE, DENSE, IMAGE)
USER, AD = SIDES = ("user", "ad")
_IMAGE_WORDS = ("img", "image")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature that samples take.

    Attributes:
        name: Its name.
        side: "user" or "ad".
        kind: One of `KINDS`.
        length: Floats of a dense one.
    """

    name: str
    side: str
    kind: str
    length: int = 1


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a first pass found.

    Attributes:
        features: Those to take, the user's first.
        num_labels: Labels of each line.
        num_lines: Impressions in all files.
        times: A sample of the timestamps.
    """

    features: tuple[Feature, ...]
    num_labels: int
    num_lines: int
    times: UniformSample


@dataclasses.dataclass
class _Seen:
    """How a feature was written so far; lines by their places, "" for none."""

    side: str
    lines: int = 0
    weighted: str = ""
    fraction: str = ""
    uneven: str = ""
    several: str = ""
    length: int = 0

    def add(self, value: str, impression: Impression) -> None:
        self.lines += 1
        count = value.count(",") + 1 if value else 0
        if count > 1 and not self.several:
            self.several = impression.where
        if ":" in value:
            self.weighted = self.weighted or impression.where
            return
        if value and not self.fraction and not are_plain_ids(value):
            self.fraction = impression.where
        if not self.length:
            self.length = count
        if count != self.length and not self.uneven:
            self.uneven = impression.where


def parse_fields(fields: Iterable[str]) -> dict[str, str]:
    """Reads the features that a person names, `name` or `name:kind`; the kind is "" if not given.

    Raises:
        ConfigError: If a kind is none, or a name stands twice.

    Example:
        >>> parse_fields(["user0", "ad0:dense"])
        {'user0': '', 'ad0': 'dense'}
    """
    found: dict[str, str] = {}
    for field in fields:
        name, colon, kind = field.partition(":")
        if not name or name in found or (colon and kind not in KINDS):
            raise ConfigError(
                f"--fields: got {field!r}, wanted NAME or NAME:KIND, each name once; kinds are "
                f"{', '.join(KINDS)}"
            )
        found[name] = kind
    return found


def survey(
    impressions: Iterable[Impression], fields: Mapping[str, str], has_images: bool
) -> Survey:
    """Finds out what the features are.

    Args:
        impressions: All of them.
        fields: Features to take -> their kinds, "" to find out; none for all of them.
        has_images: Whether there are images, or ids of images are ids like others.

    Raises:
        SampleError: If lines do not fit together; names one.
        ConfigError: If a feature of `fields` is in no line, or there is no feature of images.
    """
    seen: dict[str, _Seen] = {}
    times = UniformSample()
    pending: list[int] = []
    num_labels = num_lines = 0
    for impression in impressions:
        if not num_lines:
            num_labels = len(impression.labels)
        elif len(impression.labels) != num_labels:
            raise SampleError(
                f"{impression.where}: got {len(impression.labels)} labels, the lines before have "
                f"{num_labels}"
            )
        num_lines += 1
        for side, part in ((USER, impression.user), (AD, impression.ad)):
            for name, value in part.items():
                own = seen.get(name)
                if own is None:
                    own = seen[name] = _Seen(side)
                elif own.side != side:
                    raise SampleError(
                        f"{impression.where}: feature {name!r} is {side.upper()}'s here and "
                        f"{own.side.upper()}'s before; give each a name"
                    )
                try:
                    check(value)
                except ValueError as error:
                    raise SampleError(f"{impression.where}: feature {name!r}: {error}") from None
                own.add(value, impression)
        pending.append(impression.time)
        if len(pending) == 1 << 16:
            times.add(pending)
            pending = []
    times.add(pending)
    return Survey(_features(seen, fields, has_images), num_labels, num_lines, times)


def _features(
    seen: Mapping[str, _Seen], fields: Mapping[str, str], has_images: bool
) -> tuple[Feature, ...]:
    unknown = [name for name in fields if name not in seen]
    if unknown:
        raise ConfigError(
            f"--fields: no line has {_named(unknown)}; features are {_named(list(seen))}"
        )
    chosen = {name: seen[name] for name in seen if not fields or name in fields}
    features = []
    for side in SIDES:
        for name, own in chosen.items():
            if own.side == side:
                features.append(_feature(name, own, fields.get(name, ""), has_images))
    if has_images and not any(feature.kind == IMAGE for feature in features):
        raise ConfigError(
            "--images: no feature is of images by its name; say which with "
            f"--fields=NAME:image,...; features are {_named(list(chosen))}"
        )
    return tuple(features)


def _feature(name: str, own: _Seen, kind: str, has_images: bool) -> Feature:
    kind = kind or _kind(name, own, has_images)
    if kind == IMAGE and not has_images:
        raise ConfigError(f"--fields={name}:image needs --images, the files that hold them")
    if kind == DENSE and own.weighted:
        raise SampleError(f"{own.weighted}: feature {name!r} is ids with weights, wanted numbers")
    if kind == DENSE and own.uneven:
        raise SampleError(
            f"{own.uneven}: feature {name!r} has another number of values than the {own.length} "
            "before; a dense feature has equally many in all lines"
        )
    if kind == IMAGE and own.side == AD and own.several:
        raise SampleError(
            f"{own.several}: feature {name!r} has several images, and models see one of an ad; "
            f"keep one, or take the ids alone with --fields={name}:sparse,..."
        )
    return Feature(name, own.side, kind, own.length if kind == DENSE else 1)


def _kind(name: str, own: _Seen, has_images: bool) -> str:
    if own.weighted and own.fraction:
        raise SampleError(
            f"{own.fraction}: feature {name!r} is numbers, and ids with weights in {own.weighted}; "
            "a feature is one of them in all lines"
        )
    # Whole numbers alone, not equally many in each line, can only be ids without weights.
    is_image = _is_named_as_image(name)
    are_ids = own.weighted or (not own.fraction and (own.uneven or is_image or not own.length))
    if not are_ids:
        return DENSE
    return IMAGE if is_image and has_images else SPARSE


def _is_named_as_image(name: str) -> bool:
    return any(word in name.lower() for word in _IMAGE_WORDS)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
