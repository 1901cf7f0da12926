"""CrossMedia's samples and image files as a data set.

Both are read as a stream: the samples twice, the first time to learn what the features are, the
images once. Ids keep their values and are hashed by the model, as CrossMedia's hash tables do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from amstf.data import SampleWriter, add_info, set_image_store
from amstf.errors import ConfigError, SampleError
from amstf.schema import DENSE, IMAGE, NO_ID, WEIGHT_SUFFIX, WEIGHTED_SPARSE, Field, Schema
from launch.datasets.click_log import HOLDOUTS, LAST, RANDOM, SHARE, SPLITS, check_splits
from launch.datasets.crossmedia_fields import SIDES, USER, Feature, Survey, survey
from launch.datasets.crossmedia_images import write_store
from launch.datasets.crossmedia_text import Impression, floats, read_impressions, weighted_ids
from launch.datasets.missing_images import MissingImages

GROUP = "gkey"
STORE_FILE = "images.h5"


@dataclasses.dataclass(frozen=True)
class CrossMediaConfig:
    """How CrossMedia's lines become samples.

    Attributes:
        fields: Features to take -> their kinds, one of `crossmedia_fields.KINDS`, "" to find out
            from the lines; none for all of them.
        label_names: Of the labels in order; () for click, label_1, label_2 ...
        label_threshold: What is above it is 1, the rest 0; None if labels are 0 and 1.
        hash_size: Rows of each table of ids.
        dynamic: Give each id a row of its own instead, in tables that grow.
        embedding_width: Of each id.
        image_ids: Whether models see ids of images as ids too, each with an embedding of its own.
        holdout: Whether "random" groups or the "last" ones are validation and test.
        seed: Decides what is random.

    Raises:
        ConfigError: If a value is out of range.
    """

    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    label_threshold: float | None = None
    hash_size: int = 1 << 17
    dynamic: bool = False
    embedding_width: int = 16
    image_ids: bool = False
    holdout: str = RANDOM
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("hash_size", "embedding_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.holdout not in HOLDOUTS:
            raise ConfigError(f"--holdout is {self.holdout!r}; use {', '.join(HOLDOUTS)}")


def prepare(
    config: CrossMediaConfig,
    samples: Sequence[str],
    images: str | None,
    directory: str | os.PathLike[str],
    *,
    num_shards: int = 8,
    image_dtype: str = "float32",
    image_width: int | None = None,
    group_size: int | None = None,
) -> dict[str, int]:
    """Writes CrossMedia's files as a data set.

    Args:
        config: How lines become samples.
        samples: The text files in order.
        images: Prefix of the image files; None for a data set without images.
        directory: The data set directory to fill.
        num_shards: Files per split.
        image_dtype: Stored type of the features, one of `image_store_writer.DTYPES`.
        image_width: Features of an image; None to find it out.
        group_size: Most impressions of a group; None stores each by itself.

    Returns:
        The number of samples by split.

    Raises:
        SampleError: Naming file and line, if one is malformed.
        StoreError: Naming file and record, if an image is.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # What is malformed should be found before hours of copying images.
    seen = _with_good_labels(config, read_impressions(samples, "looking"))
    found = survey(seen, config.fields, images is not None)
    schema = make_schema(config, found)
    store = None
    if images is not None:
        store = write_store(images, directory / STORE_FILE, image_width, image_dtype)
    missing = MissingImages(store)
    split_of = _splits(config, found)
    labels = [field.name for field in schema.labels]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(SampleWriter(directory, schema, split, num_shards, group_size))
            for split in SPLITS
        ]
        for impression in read_impressions(samples, "writing"):
            values = zip(labels, _labels(config, impression), strict=True)
            try:
                sample = _sample(found.features, impression)
                sample |= values
                writers[split_of(impression)].write(sample)
            except (ValueError, SampleError) as error:
                raise SampleError(f"{impression.where}: {error}") from None
            for feature in found.features:
                if feature.kind == IMAGE:
                    ids = sample[feature.name]
                    missing.add(ids if isinstance(ids, list) else [ids])
        counts = {s: w.num_written for s, w in zip(SPLITS, writers, strict=True)}
        check_splits(config.holdout, counts)
        for writer in writers:
            writer.close()
    stores = {field.store_name for field in schema.of_kind(IMAGE)}
    for name in sorted(stores):
        set_image_store(directory, STORE_FILE, name)
    add_info(
        directory,
        source="CrossMedia",
        samples=list(samples),
        config={**dataclasses.asdict(config), "fields": dict(config.fields)},
        **({"preset": "crossmedia"} if len(stores) == len(SIDES) else {}),
        **missing.facts(),
    )
    return counts


def make_schema(config: CrossMediaConfig, found: Survey) -> Schema:
    """Returns the fields of the data set.

    Images of the user and images of the ad are two stores, of one file, so that a model may give
    each side its own E, and a cluster each E its own servers.

    Raises:
        ConfigError: If there is another number of labels than of names.
    """
    ids: dict[str, Any] = {"dynamic": True} if config.dynamic else {"hash_size": config.hash_size}
    table = {**ids, "embedding_width": config.embedding_width}
    fields = []
    for feature in found.features:
        name, side = feature.name, feature.side
        if feature.kind == DENSE:
            fields.append(Field(name, DENSE, side=side, length=feature.length))
        elif feature.kind == IMAGE:
            is_list = side == USER
            fields.append(Field(name, IMAGE, side=side, is_list=is_list, store=f"{side}_images"))
            if config.image_ids:
                fields.append(
                    Field(f"{name}_id", "sparse", side=side, is_list=is_list, source=name, **table)
                )
        else:
            fields.append(Field(name, WEIGHTED_SPARSE, side=side, is_list=True, **table))
    numbered = ("click", *(f"label_{k}" for k in range(1, found.num_labels)))
    names = config.label_names or numbered
    if len(names) != found.num_labels:
        raise ConfigError(
            f"--label_names has {len(names)} names, and a line {found.num_labels} labels"
        )
    if taken := [name for name in names if name in {f.name for f in fields}]:
        raise ConfigError(f"--label_names: a feature is named {taken[0]!r} too; give other names")
    shown = [f.name for f in found.features if f.kind == IMAGE and f.side != USER]
    return Schema(
        (
            *fields,
            *(Field(name, "label") for name in names),
            Field(GROUP, "group", side=USER, dtype="string"),
        ),
        item=shown[0] if shown else None,
    )


def _sample(features: Iterable[Feature], impression: Impression) -> dict[str, Any]:
    sample: dict[str, Any] = {GROUP: impression.gkey}
    for feature in features:
        name = feature.name
        part = impression.user if feature.side == USER else impression.ad
        value = part.get(name)
        try:
            if feature.kind == DENSE:
                if value is None:
                    raise ValueError(f"got nothing, wanted {feature.length} numbers")
                sample[name] = floats(value)
                continue
            ids, weights = weighted_ids(value or "")
        except ValueError as error:
            raise ValueError(f"feature {name!r}: {error}") from None
        if NO_ID in ids:
            raise ValueError(f"feature {name!r}: got the id {NO_ID}, which stands for none")
        if feature.kind != IMAGE:
            sample[name], sample[name + WEIGHT_SUFFIX] = ids, weights
        else:
            sample[name] = ids if feature.side == USER else (ids[0] if ids else NO_ID)
    return sample


def _labels(config: CrossMediaConfig, impression: Impression) -> tuple[float, ...]:
    values = impression.labels
    if config.label_threshold is not None:
        values = tuple(float(value > config.label_threshold) for value in values)
    for value in values:
        if value not in (0, 1):
            raise SampleError(
                f"{impression.where}: a label is {value:g}, wanted 0 or 1; --label_threshold=0.5 "
                "makes 1 of what is above"
            )
    return values


def _with_good_labels(
    config: CrossMediaConfig, impressions: Iterable[Impression]
) -> Iterator[Impression]:
    for impression in impressions:
        _labels(config, impression)
        yield impression


def _splits(config: CrossMediaConfig, found: Survey) -> Callable[[Impression], int]:
    """Returns what gives the split of each impression, in order; a group is in one of them."""
    rng = np.random.default_rng(config.seed)
    limits = found.times.quantiles(np.array([1 - 2 * SHARE, 1 - SHARE])).tolist()
    group, split = None, 0

    def split_of(impression: Impression) -> int:
        nonlocal group, split
        if impression.gkey != group:
            group = impression.gkey
            if config.holdout == LAST:
                split = sum(impression.time > limit for limit in limits)
            else:
                place = rng.random()
                split = (place >= 1 - 2 * SHARE) + (place >= 1 - SHARE)
        return split

    return split_of
