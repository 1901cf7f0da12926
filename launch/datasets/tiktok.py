"""TikTok's challenge data (ICME 2019, the sub-sample of MMSSL) as click data with video features.

Each interaction of a user with a video is a click, and comes with `NEGATIVES` impressions that are
none: items drawn by popularity, the number of their clicks, inside the same split, none of which
the user clicked in any split. All five hold the same behaviours: the user's clicks of the training
split, without the click itself. (Were it taken out of its own impression only, an impression with
one behaviour less would be a click.) The data has no times, so behaviours come in a random order of
the user's own, which the seed decides, and the first ones are kept.

new_items     20 % of the items are shown by the test only, 10 % by the validation only.
known_items   20 % of the interactions are the test, 10 % the validation, at random.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from amstf import files
from amstf.data import SampleWriter, add_info, set_image_store
from amstf.errors import ConfigError, SampleError
from amstf.schema import Field, Schema
from amstf.store import ImageStoreWriter

FILE = "tiktok.npz"
SPLITS = ("train", "validation", "test")
NEW_ITEMS, KNOWN_ITEMS = SPLIT_KINDS = ("new_items", "known_items")
NEGATIVES = 4
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1

MODALITIES = {"visual": ("video", "behaviour_videos"), "audio": ("audio", "behaviour_audio")}
"""Modality, which is the name of its store -> field of the ad, and of the user's behaviours."""

_ARRAYS = {"visual": "feat", "audio": "audio"}
_ROUNDS = 50  # Of drawing again what may not be drawn, before the choice is made one by one.


@dataclasses.dataclass(frozen=True)
class TiktokConfig:
    """How the interactions become samples.

    Attributes:
        split: "new_items" or "known_items".
        behaviours: Most behaviours that a sample holds.
        modalities: Feature stores to write, some of `MODALITIES`.
        seed: Decides the split, the negatives and the order of behaviours.

    Raises:
        ConfigError: If a value is out of range.
    """

    split: str = NEW_ITEMS
    behaviours: int = 32
    modalities: tuple[str, ...] = ("visual",)
    seed: int = 1

    def __post_init__(self) -> None:
        if self.split not in SPLIT_KINDS:
            raise ConfigError(f"--split is {self.split!r}; use {' or '.join(SPLIT_KINDS)}")
        if self.behaviours < 1:
            raise ConfigError(f"--behaviours is {self.behaviours}; it must be at least 1")
        known = [name for name in self.modalities if name in MODALITIES]
        if not known or len(set(known)) != len(self.modalities):
            raise ConfigError(
                f"--modalities is {','.join(self.modalities)!r}; use some of "
                f"{','.join(MODALITIES)}, each once"
            )
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class Interactions:
    """N interactions of users [V] with items [M], each pair at most once.

    Attributes:
        user: int64 [N].
        item: int64 [N], the row of the features.
        features: Modality -> float32 [M, F].
    """

    user: np.ndarray
    item: np.ndarray
    features: dict[str, np.ndarray]

    @property
    def num_items(self) -> int:
        """M."""
        return len(next(iter(self.features.values())))


def prepare(
    config: TiktokConfig,
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    num_shards: int = 8,
    image_dtype: str = "float32",
    group_size: int | None = None,
) -> dict[str, int]:
    """Writes the interactions with their features as a data set.

    Args:
        config: How the interactions become samples.
        source: Directory with tiktok.npz.
        directory: The data set directory to fill.
        num_shards: Files per split.
        image_dtype: Stored type of the features, one of `image_store_writer.DTYPES`.
        group_size: Most impressions of a group, of which the user's part is stored once; None for
            no groups.

    Returns:
        The number of samples by split.

    Raises:
        SampleError: If tiktok.npz is missing or holds something else.
    """
    log = read(source, config.modalities)
    split = split_of(config, log)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, features in log.features.items():
        path = directory / f"{name}.h5"
        attributes = {"made_by": "launch.prepare tiktok", "modality": name}
        with ImageStoreWriter(path, features.shape[1], image_dtype, attributes=attributes) as store:
            store.write(np.arange(len(features)), features)
        set_image_store(directory, path.name, name)

    schema = make_schema(config, log)
    counts = dict.fromkeys(SPLITS, 0)
    for index, name in enumerate(SPLITS):
        if not (split == index).any():
            continue
        with SampleWriter(directory, schema, name, num_shards, group_size) as writer:
            total = int((split == index).sum()) * (1 + NEGATIVES)
            with tqdm(None, name, total, disable=None, unit_scale=True) as progress:
                for sample in make_samples(config, log, split, index):
                    writer.write(sample)
                    progress.update()
                    counts[name] += 1
    add_info(
        directory,
        source="TikTok (ICME 2019 challenge, MMSSL's sub-sample)",
        click=f"an interaction; {NEGATIVES} others drawn by popularity inside the split",
        split=config.split,
        behaviours="clicks of the training split in a random order, there being no times",
        config=dataclasses.asdict(config),
    )
    return counts


def read(
    source: str | os.PathLike[str], modalities: Sequence[str] = tuple(MODALITIES)
) -> Interactions:
    """Reads tiktok.npz: `user` and `item` [N], `feat` and `audio` [M, F]; raises SampleError."""
    path = pathlib.Path(source, FILE)
    try:
        files.size(path)  # A pipe would be waited for without end.
        with np.load(path) as arrays:
            user, item = arrays["user"], arrays["item"]
            features = {name: arrays[_ARRAYS[name]].astype(np.float32) for name in modalities}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SampleError(
            f"{path} cannot be read ({error}); --source must be a directory with {FILE}: arrays "
            f"`user` and `item` [N], {', '.join(f'`{_ARRAYS[m]}`' for m in modalities)} [M, F], "
            "which this project may not redistribute"
        ) from error
    if not (user.ndim == 1 and user.shape == item.shape and len(user)) or not all(
        values.dtype.kind in "iu" and values.min() >= 0 for values in (user, item)
    ):
        raise SampleError(
            f"{path}: `user` {user.dtype}{list(user.shape)} and `item` {item.dtype}"
            f"{list(item.shape)}; wanted as many ids of each, whole numbers from 0"
        )
    rows = {values.shape[0] if values.ndim == 2 else -1 for values in features.values()}
    if len(rows) != 1 or item.max() >= min(rows):
        shapes = ", ".join(f"`{_ARRAYS[m]}` {list(v.shape)}" for m, v in features.items())
        raise SampleError(f"{path}: {shapes}; wanted a row for each item, 0 to {item.max()}")
    log = Interactions(user.astype(np.int64), item.astype(np.int64), features)
    if len(np.unique(_pairs(log, log.user, log.item))) != len(user):
        raise SampleError(f"{path}: a user has clicked an item twice; wanted each pair once")
    return log


def split_of(config: TiktokConfig, log: Interactions) -> np.ndarray:
    """Returns the split of each interaction, index into `SPLITS`, int64 [N]."""
    rng = np.random.default_rng([config.seed, 0])
    new_items = config.split == NEW_ITEMS
    count = log.num_items if new_items else len(log.user)
    order = rng.permutation(count)
    num_test, num_validation = round(TEST_SHARE * count), round(VALIDATION_SHARE * count)
    split = np.zeros(count, np.int64)
    split[order[: num_test + num_validation]] = 1
    split[order[:num_test]] = 2
    return split[log.item] if new_items else split


def make_schema(config: TiktokConfig, log: Interactions) -> Schema:
    """Returns the fields of the data set.

    `item` is the row of the features, or the number of items where training does not show it: an
    id outside of the vocabulary, which models take for unknown.
    """
    listed = {"is_list": True, "max_length": config.behaviours}
    items = {"table": "item", "vocabulary_size": log.num_items}
    stored_ad, stored_behaviours = MODALITIES[config.modalities[0]]
    images = []
    for modality in config.modalities:
        ad, behaviours = MODALITIES[modality]
        # The modalities of a video have one id, which is stored once.
        of_ad = None if ad == stored_ad else stored_ad
        of_user = None if behaviours == stored_behaviours else stored_behaviours
        images += [
            Field(ad, "image", side="ad", store=modality, source=of_ad),
            Field(behaviours, "image", side="user", store=modality, source=of_user, **listed),
        ]
    ids = {"source": stored_behaviours, **listed, **items}
    return Schema(
        (
            Field("user", "sparse", side="user", vocabulary_size=int(log.user.max()) + 1),
            Field("behaviours", "sparse", side="user", **ids),
            Field("item", "sparse", side="ad", **items),
            *images,
            Field("click", "label"),
            Field("group", "group", side="user", source="user"),
        ),
        item="item",
    )


def make_samples(
    config: TiktokConfig, log: Interactions, split: np.ndarray, index: int
) -> Iterator[dict]:
    """Yields the samples of a split: each click, in random order, and its negatives.

    Args:
        config: How the interactions become samples.
        log: The interactions.
        split: What `split_of` returned.
        index: The split, index into `SPLITS`.
    """
    rng = np.random.default_rng([config.seed, 1 + index])
    clicks = rng.permutation(np.flatnonzero(split == index))
    negatives = draw_negatives(rng, log, clicks)
    histories = _histories(config, log, split == 0)
    is_trained = np.zeros(log.num_items, bool)
    is_trained[log.item[split == 0]] = True
    ad_field, behaviours_field = MODALITIES[config.modalities[0]]
    for row, others in zip(clicks.tolist(), negatives, strict=True):
        user, clicked = int(log.user[row]), int(log.item[row])
        behaviours = [item for item in histories.get(user, ()) if item != clicked]
        for item in (clicked, *others):
            yield {
                "user": user,
                behaviours_field: behaviours[: config.behaviours],
                "item": item if is_trained[item] else log.num_items,
                ad_field: item,
                "click": float(item == clicked),
            }


def draw_negatives(
    rng: np.random.Generator, log: Interactions, clicks: np.ndarray
) -> list[list[int]]:
    """Draws `NEGATIVES` items for each click, by popularity among these clicks.

    Args:
        rng: Source of randomness.
        log: The interactions.
        clicks: int64 [n], which of them are the clicks of the split.

    Returns:
        For each click its negatives, none of which the user clicked in any split; one item may
        come twice. None for a user who has clicked all items of the split.
    """
    clicked = np.sort(_pairs(log, log.user, log.item))
    users = np.repeat(log.user[clicks], NEGATIVES)
    # A random click of the split shows an item in proportion to its popularity there.
    pool = log.item[clicks]
    drawn = rng.choice(pool, len(users))
    for _ in range(_ROUNDS):
        again = np.flatnonzero(_is_in(clicked, _pairs(log, users, drawn)))
        if not len(again):
            break
        drawn[again] = rng.choice(pool, len(again))
    else:
        again = np.flatnonzero(_is_in(clicked, _pairs(log, users, drawn)))
    for place in again:
        allowed = pool[~np.isin(pool, log.item[log.user == users[place]])]
        drawn[place] = rng.choice(allowed) if len(allowed) else -1
    rows = drawn.reshape(len(clicks), NEGATIVES).tolist()
    return [[item for item in row if item >= 0] for row in rows]


def _histories(
    config: TiktokConfig, log: Interactions, in_training: np.ndarray
) -> dict[int, list[int]]:
    """Returns user -> his training clicks, in an order that is the same in all splits."""
    rows = np.flatnonzero(in_training)
    rows = np.random.default_rng([config.seed, 1 + len(SPLITS)]).permutation(rows)
    histories: dict[int, list[int]] = {}
    for user, item in zip(log.user[rows].tolist(), log.item[rows].tolist(), strict=True):
        # One more than is kept, since the click itself may be among them.
        if len(own := histories.setdefault(user, [])) <= config.behaviours:
            own.append(item)
    return histories


def _pairs(log: Interactions, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return users * log.num_items + items


def _is_in(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[places] == values
