"""Synthetic clicks in which images carry taste, from a click model that is known.

Every item has a latent visual style, every user a taste in styles. An image's features are a fixed,
random, nonlinear map of the style plus noise: a trainable embedding model can find the style in
them. With z the style of item i, w the taste of user u, and c the context, all parts of unit
variance before they are scaled by a strength:

    logit P(click) = bias + propensity(u)
                     + visible(z) + hidden(i)        quality, seen in the image | by the id only
                     + taste(w, z)                   needs the images (or very many clicks per id)
                                                     the best of the user's interests, if several;
                                                     w turns by `taste_drift` in the course of time
                     + ids(brand, gender, category, age, hour)

so IDs alone learn much about items with history, images more, and about new items only images and
the few shared IDs (category, brand) say anything. The true probability is stored with each sample.

With `text_width` items have titles too, and a second store holds vectors of them: they show
hidden(i) and one dimension of z. Nothing else changes.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from amstf.data import SampleWriter, add_info, set_image_store
from amstf.metrics.auc import auc, gauc
from amstf.schema import Field, Schema
from amstf.store import ImageStoreWriter
from launch.datasets.adjacent import adjacent
from launch.datasets.halves import left_out
from launch.datasets.pictures import Pictures, render
from launch.datasets.synthetic_config import SyntheticConfig

SPLITS = ("train", "validation", "test")
CATEGORIES, BRANDS, AGES, HOURS = 20, 50, 7, 24
_STORE_ROWS = 8192
_TITLES = {"store": "titles"}


@dataclasses.dataclass(frozen=True)
class SyntheticLog:
    """Impressions in order of time: N of them, of users [V] and items [M].

    Attributes:
        user: int64 [N].
        item: int64 [N].
        hour: int64 [N].
        probability: float32 [N], the true click probability.
        click: bool [N].
        split: int64 [N], index into `SPLITS`.
        age: int64 [V].
        gender: int64 [V].
        category: int64 [M].
        brand: int64 [M].
        is_new: bool [M], whether an item is meant for the test only.
        style: float32 [M, style_width].
        hidden: float32 [M], the quality that an image does not show.
    """

    user: np.ndarray
    item: np.ndarray
    hour: np.ndarray
    probability: np.ndarray
    click: np.ndarray
    split: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    category: np.ndarray
    brand: np.ndarray
    is_new: np.ndarray
    style: np.ndarray
    hidden: np.ndarray


def prepare(
    config: SyntheticConfig,
    directory: str | pathlib.Path,
    *,
    num_shards: int = 8,
    image_dtype: str = "float16",
    group_size: int | None = None,
    train_half: str = "",
    pictures: Pictures | None = None,
) -> dict[str, int]:
    """Makes a synthetic data set.

    Args:
        config: Its size and nature.
        directory: The data set directory to fill.
        num_shards: Files per split.
        image_dtype: Stored type of the features, one of `image_store_writer.DTYPES`.
        group_size: Impressions of the longest group, if they are to be stored in groups: those of
            a user between two clicks, or of pages between two clicks, come together then.
        train_half: One of `halves.HALVES`, or "" for the whole training split. What the other half
            clicked stays among the behaviours.
        pictures: Draw the items there instead of storing features of their images; the data set has
            no image store then until one is extracted from the pictures.

    Returns:
        The number of samples by split.
    """
    directory = pathlib.Path(directory)
    log = _with_half(generate(config), train_half)
    for name, width, features in (
        ("images", config.image_width, image_features(config, log.style)),
        ("titles", config.text_width, title_features(config, log)),
    ):
        if not width:
            continue
        if name == "images" and pictures is not None:
            render(pictures, log.style, log.category, seed=config.seed)
            continue
        attributes = {"made_by": "launch.prepare synthetic", "seed": config.seed}
        path = directory / f"{name}.h5"
        with ImageStoreWriter(path, width, image_dtype, attributes=attributes) as store:
            for begin, rows in features:
                store.write(np.arange(begin, begin + len(rows)), rows)
        set_image_store(directory, path.name, name)

    schema = make_schema(config)
    counts = [int((log.split == index).sum()) for index in range(len(SPLITS))]
    clicks = behaviours(log, config.behaviours, config.page_size)
    order = np.arange(len(log.user))
    if group_size is not None:
        earlier = earlier_clicks(log, config.page_size)
        keys = zip(log.split.tolist(), log.user.tolist(), earlier.tolist(), strict=True)
        order = np.array(adjacent(keys))
    with tqdm(None, "samples", len(log.user), disable=None, unit_scale=True) as progress:
        for index, split in enumerate(SPLITS):
            if not counts[index]:
                continue
            with SampleWriter(directory, schema, split, num_shards, group_size) as writer:
                for row in order[log.split[order] == index]:
                    writer.write(_sample(log, row, clicks))
                    progress.update()
    add_info(
        directory,
        source="synthetic",
        config=dataclasses.asdict(config),
        click_rate=round(float(log.click.mean()), 4),
        best_reachable=best_reachable(log),
        **({"train_half": train_half} if train_half else {}),
        **({"pictures": str(pictures.shown_as)} if pictures is not None else {}),
    )
    return dict(zip(SPLITS, counts, strict=True))


def _with_half(log: SyntheticLog, train_half: str) -> SyntheticLog:
    """Returns the log with the other half of the training split in no split, -1."""
    split = log.split.copy()
    in_training = np.flatnonzero(split == 0)
    split[in_training[left_out(len(in_training), train_half)]] = -1
    return dataclasses.replace(log, split=split)


def make_schema(config: SyntheticConfig) -> Schema:
    """Returns the fields of a synthetic data set."""
    listed = {"is_list": True, "max_length": config.behaviours}
    images = {"table": "image_id", "vocabulary_size": config.items}
    # An item's picture and its title have one id, which is stored once.
    titles = (
        Field("behaviour_titles", "image", "user", source="behaviour_images", **listed, **_TITLES),
        Field("ad_title", "image", "ad", source="ad_image", **_TITLES),
    )
    return Schema(
        (
            Field("user", "sparse", side="user", vocabulary_size=config.users),
            Field("age", "sparse", side="user", vocabulary_size=AGES),
            Field("gender", "sparse", side="user", vocabulary_size=2),
            Field("behaviour_images", "image", side="user", **listed),
            Field(
                "behaviour_image_ids",
                "sparse",
                side="user",
                source="behaviour_images",
                **listed,
                **images,
            ),
            Field("item", "sparse", side="ad", vocabulary_size=config.items),
            Field("category", "sparse", side="ad", vocabulary_size=CATEGORIES),
            Field("brand", "sparse", side="ad", vocabulary_size=BRANDS),
            Field("ad_image", "image", side="ad"),
            Field("ad_image_id", "sparse", side="ad", source="ad_image", **images),
            *(titles if config.text_width else ()),
            Field("hour", "sparse", side="context", vocabulary_size=HOURS),
            Field("click", "label"),
            Field("group", "group", side="user", source="user"),
            Field("true_probability", "extra"),
        ),
        item="item",
    )


def generate(config: SyntheticConfig) -> SyntheticLog:
    """Draws users, items, and the impressions in order of time; the same for the same config."""
    rng = np.random.default_rng(config.seed)
    users, items, count, width = config.users, config.items, config.impressions, config.style_width

    age, gender = rng.integers(AGES, size=users), rng.integers(2, size=users)
    category, brand = rng.integers(CATEGORIES, size=items), rng.integers(BRANDS, size=items)
    shared = config.style_from_category
    style = np.sqrt(shared) * rng.normal(size=(CATEGORIES, width))[category]
    style += np.sqrt(1 - shared) * rng.normal(size=(items, width))
    # Tastes of one length: every user has one, so that behaviours are worth as much for each.
    taste = _directions(rng, users, width)
    visible = _unit(np.tanh(style @ rng.normal(size=width)))
    propensity, hidden = rng.normal(size=users), rng.normal(size=items)
    gender_brand = rng.normal(size=(2, BRANDS))
    age_category = rng.normal(size=(AGES, CATEGORIES))
    hour_effect = _unit(np.sin(np.arange(HOURS) * (2 * np.pi / HOURS)))

    shuffled = rng.permutation(items)
    num_new = int(config.new_items * items)
    is_new, is_validation_new = np.zeros(items, bool), np.zeros(items, bool)
    is_new[shuffled[:num_new]] = True
    num_validation_new = int(config.new_validation_items * items)
    is_validation_new[shuffled[num_new : num_new + num_validation_new]] = True
    num_test = int(config.test_share * count)
    num_validation = int(config.validation_share * count)
    split = np.zeros(count, np.int64)
    split[count - num_test - num_validation :] = 1
    split[count - num_test :] = 2

    activity = rng.gamma(2.0, size=users)
    page = np.arange(count) // config.page_size
    user = rng.choice(users, size=page[-1] + 1, p=activity / activity.sum())[page]
    item = _popular(rng, np.flatnonzero(~is_new & ~is_validation_new), count, config.zipf)
    # A generator of its own: data without such items stay what they were.
    of_validation = np.random.default_rng([config.seed, 4])
    for draw, index, new in ((rng, 2, is_new), (of_validation, 1, is_validation_new)):
        if new.any():
            shows_new = (split == index) & (draw.random(count) < config.new_item_impressions)
            item[shows_new] = _popular(draw, np.flatnonzero(new), shows_new.sum(), config.zipf)
    hour = rng.integers(HOURS, size=page[-1] + 1)[page]

    ids = gender_brand[gender[user], brand[item]] + age_category[age[user], category[item]]
    logit = (
        config.bias
        + config.propensity * propensity[user]
        + config.visible_quality * visible[item]
        + config.hidden_quality * hidden[item]
        + config.taste * _match(config, taste, user, style[item])
        + config.id_effects * (ids + hour_effect[hour]) / np.sqrt(3)
    )
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return SyntheticLog(
        user=user,
        item=item,
        hour=hour,
        probability=probability,
        click=rng.random(count) < probability,
        split=split,
        age=age,
        gender=gender,
        category=category,
        brand=brand,
        is_new=is_new,
        style=style.astype(np.float32),
        hidden=hidden.astype(np.float32),
    )


def _directions(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Returns vectors of length 1 in random directions, [count, width]."""
    vectors = rng.normal(size=(count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _match(
    config: SyntheticConfig, taste: np.ndarray, user: np.ndarray, style: np.ndarray
) -> np.ndarray:
    """Returns how the styles [N, style_width] of the shown items match their users' tastes [N]."""
    # Generators of their own: data of one interest, or without drift, stay what they were.
    rng = np.random.default_rng([config.seed, 3])
    others = [_directions(rng, *taste.shape) for _ in range(config.interests - 1)]
    of_drift = np.random.default_rng([config.seed, 5])
    angle = config.taste_drift * np.linspace(0, 1, len(user))
    match = np.full(len(user), -np.inf)
    for one in (taste, *others):
        now = np.einsum("nk,nk->n", one[user], style)
        if config.taste_drift:
            towards = _across(of_drift, one)
            turned = np.einsum("nk,nk->n", towards[user], style)
            now = np.cos(angle) * now + np.sin(angle) * turned
        match = np.maximum(match, now)
    return _unit(match) if config.interests > 1 else match


def _across(rng: np.random.Generator, directions: np.ndarray) -> np.ndarray:
    """Returns for each direction [n, width] one at a right angle to it; zeros if there is none."""
    others = rng.normal(size=directions.shape)
    others -= np.einsum("nk,nk->n", others, directions)[:, None] * directions
    length = np.linalg.norm(others, axis=1, keepdims=True)
    return np.where(length > 1e-9, others / np.maximum(length, 1e-9), 0.0)


def image_features(config: SyntheticConfig, style: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the images' features in pieces: what their items' style [M, style_width] looks like.

    They are, like those of a convolutional network behind its last ReLU, not negative.

    Yields:
        The first item of the piece and float32 [n, F].
    """
    rng = np.random.default_rng([config.seed, 1])
    for begin, features in _observed(rng, style, config.image_width, config.image_noise):
        yield begin, np.maximum(features, 0).astype(np.float32)


def title_features(config: SyntheticConfig, log: SyntheticLog) -> Iterator[tuple[int, np.ndarray]]:
    """Yields vectors of the items' titles, as `image_features`: hidden quality and one style."""
    rng = np.random.default_rng([config.seed, 2])
    latent = np.stack([log.hidden, log.style[:, -1]], axis=1)
    for begin, features in _observed(rng, latent, config.text_width, config.image_noise):
        yield begin, features.astype(np.float32)


def _observed(
    rng: np.random.Generator, latent: np.ndarray, width: int, noise: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Maps latents by a fixed random network with one hidden layer, and adds noise."""
    hidden = 4 * latent.shape[1]
    into = rng.normal(size=(latent.shape[1], hidden)) / np.sqrt(latent.shape[1])
    shift = rng.normal(size=hidden) / 2
    out = rng.normal(size=(hidden, width)) / np.sqrt(hidden / 2)
    for begin in range(0, len(latent), _STORE_ROWS):
        signal = np.tanh(latent[begin : begin + _STORE_ROWS] @ into + shift) @ out
        yield begin, signal + noise * rng.normal(size=signal.shape)


def earlier_clicks(log: SyntheticLog, page_size: int = 1) -> np.ndarray:
    """Returns how often its user had clicked before each impression's page began, int64 [N]."""
    earlier = np.empty(len(log.user), np.int64)
    for own in _rows_by_user(log):
        earlier[own] = np.cumsum(log.click[own]) - log.click[own]
    # All impressions of a page are of one user.
    rows = np.arange(len(earlier))
    return earlier[rows - rows % page_size]


def behaviours(log: SyntheticLog, longest: int, page_size: int = 1) -> list[np.ndarray]:
    """Returns for each impression the items that its user clicked before, newest first.

    Args:
        log: The impressions.
        longest: Most items to return.
        page_size: See `SyntheticConfig`; "before" is before the page began.
    """
    listed: list[np.ndarray] = [np.empty(0, np.int64)] * len(log.user)
    earlier = earlier_clicks(log, page_size)
    for own in _rows_by_user(log):
        clicked = log.item[own][log.click[own]]
        for row, n in zip(own.tolist(), earlier[own].tolist(), strict=True):
            listed[row] = clicked[max(0, n - longest) : n][::-1]
    return listed


def _rows_by_user(log: SyntheticLog) -> list[np.ndarray]:
    """Returns the impressions of each user, in order of time."""
    order = np.argsort(log.user, kind="stable")
    starts = np.flatnonzero(np.diff(log.user[order], prepend=-1))
    return np.split(order, starts[1:])


def best_reachable(log: SyntheticLog) -> dict[str, dict[str, float | int]]:
    """Returns AUC and GAUC of the true probability: no model can expect to do better.

    Args:
        log: The impressions.

    Returns:
        For each split, and for "test, new items" (those that training never shows), `auc`, `gauc`,
        `impressions` and `clicks`; a measure is left out where no user or no sample has both
        classes.
    """
    parts = {split: log.split == k for k, split in enumerate(SPLITS)}
    seen = np.zeros(len(log.style), bool)
    seen[log.item[parts["train"]]] = True
    parts["test, new items"] = parts["test"] & ~seen[log.item]
    best = {}
    for name, rows in parts.items():
        if not rows.any():
            continue
        click, probability = log.click[rows], log.probability[rows]
        measures = {
            "auc": auc(click, probability),
            "gauc": gauc(click, probability, log.user[rows]).value,
        }
        best[name] = {
            **{key: round(value, 5) for key, value in measures.items() if not np.isnan(value)},
            "impressions": int(rows.sum()),
            "clicks": int(click.sum()),
        }
    return best


def _sample(log: SyntheticLog, row: int, clicks: list[np.ndarray]) -> dict:
    user, item = int(log.user[row]), int(log.item[row])
    return {
        "user": user,
        "age": log.age[user],
        "gender": log.gender[user],
        "behaviour_images": clicks[row],
        "item": item,
        "category": log.category[item],
        "brand": log.brand[item],
        "ad_image": item,
        "hour": log.hour[row],
        "click": float(log.click[row]),
        "true_probability": float(log.probability[row]),
    }


def _popular(
    rng: np.random.Generator, items: np.ndarray, count: int, exponent: float
) -> np.ndarray:
    weights = 1 / np.arange(1, len(items) + 1) ** exponent
    return rng.choice(rng.permutation(items), size=count, p=weights / weights.sum())


def _unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
