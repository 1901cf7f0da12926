"""The data sets of the experiments: how they are made, and the settings of trainings on each.

The settings come from `launch.experiment tuning` and from trials on one seed, chosen by the
validation AUC; docs/design/experiments.md says which.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from amstf.errors import ConfigError
from launch import programs
from launch.experiments.plan import (
    AUC,
    BEHAVIOURS,
    GAUC,
    IDS,
    IMAGES,
    JOINT,
    NEW_AUC,
    USER_AUC,
    Metric,
)

Changes = Mapping[str, str | None]
"""Flags of `launch.prepare` that differ, by name; None: without."""

NO_CHANGES: Changes = {}


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        title: In a few words.
        prepare: Kind and flags of `launch.prepare`; "{shared}" stands for the directory of data
            that the project may not ship, "{seed}" for the seed of a run, which may be its fold of
            a cross-validation.
        metrics: What tables show.
        settings: Attributes of `RunConfig` by family; for `BEHAVIOURS` and `JOINT` those of
            `IMAGES` count too.
        new_item_impressions: An item counts as new if training showed it at most so often.
        segment_steps: Steps between validations.
        has_halves: Whether the training split can be cut in two halves in time.
    """

    title: str
    prepare: tuple[str, ...]
    metrics: tuple[Metric, ...]
    settings: Mapping[str, Mapping[str, Any]]
    new_item_impressions: int = 0
    segment_steps: int | None = None
    has_halves: bool = False

    @property
    def needs_shared(self) -> bool:
        """Whether it is made of data that the project may not ship."""
        return any("{shared}" in flag for flag in self.prepare)

    @property
    def is_per_seed(self) -> bool:
        """Whether each seed has data of its own."""
        return any("{seed}" in flag for flag in self.prepare)

    def settings_of(self, family: str) -> Mapping[str, Any]:
        """Returns the settings of a family of models."""
        if family in (BEHAVIOURS, JOINT):
            return {**self.settings[IMAGES], **self.settings.get(family, {})}
        return self.settings[family]

    def directory(
        self, runs: pathlib.Path, name: str, seed: int, part: str, changes: Changes = NO_CHANGES
    ) -> pathlib.Path:
        """Returns where the data set of a run lies: another place for other flags."""
        flags = " ".join(self.flags(None, seed, part, changes))
        return runs / "data" / f"{name}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"

    def flags(
        self, shared: pathlib.Path | None, seed: int, part: str, changes: Changes = NO_CHANGES
    ) -> list[str]:
        """Returns kind and flags of `launch.prepare`, with the changes of a variant."""
        flags = [
            flag.format(shared=shared, seed=seed)
            for flag in self.prepare
            if flag.removeprefix("--").partition("=")[0] not in changes
        ]
        flags += [f"--{name}={value}" for name, value in changes.items() if value is not None]
        return [*flags, f"--train_half={part}"] if part else flags


_COMMON: Mapping[str, Any] = {"epochs": 20, "patience": 6, "batch_size": 1024}
_TIKTOK_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    IDS: {
        **_COMMON,
        "learning_rate": 0.003,
        "dropout": 0.3,
        "id_l2": 1.0,
        "epochs": 12,
        "patience": 5,
    },
    IMAGES: {
        **_COMMON,
        "learning_rate": 0.001,
        "dropout": 0.5,
        "epochs": 12,
        "patience": 5,
        "aggregator": "mean",
        "tower": (64,),
        "tower_activation": "linear",
        "unit_images": True,
        "id_dropout": 0.5,
        "id_dropout_fields": ("item", "behaviours"),
    },
    JOINT: {"image_products": True},
}


def _tiktok(title: str, split: str, *flags: str) -> Data:
    return Data(
        title=f"TikTok, {title}",
        prepare=(
            "tiktok",
            "--source={shared}/tiktok",
            f"--split={split}",
            "--seed={seed}",
            "--modalities=visual,audio",
            "--standardise",
            "--combiner=mean",
            *flags,
            "--group_by_user",
        ),
        metrics=(AUC, USER_AUC),
        settings=_TIKTOK_SETTINGS,
        segment_steps=120,
    )


_SYNTHETIC: Mapping[str, Any] = {
    **_COMMON,
    "learning_rate": 0.003,
    "learning_rate_decay": 0.5,
    "decay_steps": 750,
    "epochs": 6,
    "id_dropout_fields": ("item", "ad_image_id", "behaviour_image_ids"),
}
_MOVIELENS: Mapping[str, Any] = {
    **_COMMON,
    "learning_rate": 0.003,
    "learning_rate_decay": 0.5,
    "decay_steps": 600,
    "epochs": 22,
    "dropout": 0.3,
    "id_l2": 1.0,
    "id_dropout_fields": ("movie", "ad_image_id", "behaviour_image_ids"),
}

_MOVIELENS_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    IDS: _MOVIELENS,
    IMAGES: {**_MOVIELENS, "aggregator": "mean", "tower": (8,), "image_dropout": 0.5},
    JOINT: {"aggregator": "multi_query_mean"},
}
_POSTERS = (
    "movielens",
    "--ratings={shared}/movielens",
    "--features={shared}/movielens/features_efficientnet_lite0_tfnorm.h5",
    "--only_with_image",
    "--combiner=mean",
)

_CRITEO_FILES = ("criteo_train.tsv", "criteo_dev.tsv", "criteo_test.tsv")
# The seed of a run is its fold; all folds cut the same order of the same rows.
_FOLDS = ("--folds=5", "--fold={seed}", "--seed=1", "--num_shards=1")
_LOG: Mapping[str, Any] = {"learning_rate": 0.001, "batch_size": 256, "patience": 2}

DATA: Mapping[str, Data] = {
    "synthetic": Data(
        title="synthetic clicks in which images carry taste; the best reachable AUC is known",
        prepare=(
            "synthetic",
            "--users=1000",
            "--items=20000",
            "--impressions=500000",
            "--image_width=64",
            "--behaviours=32",
            "--interests=2",
            "--hidden_quality=0.2",
            "--combiner=mean",
            "--taste=1.5",
            "--taste_drift=0.6",
            "--new_validation_items=0.05",
        ),
        metrics=(AUC, GAUC, NEW_AUC),
        settings={
            IDS: {**_SYNTHETIC, "id_l2": 0.3, "id_dropout": 0.5},
            IMAGES: {**_SYNTHETIC, "id_l2": 0.1, "id_dropout": 0.9, "tower": (64, 12)},
            # What an ad's id would say, its image does; where it is not seen the id is needed.
            BEHAVIOURS: {"aggregator": "mean", "id_l2": 0.3, "id_dropout": 0.5},
            JOINT: {"aggregator": "multi_query", "image_products": True},
        },
        segment_steps=188,
        has_halves=True,
    ),
    "movielens": Data(
        title="MovieLens-100k with posters; a rating of 4 or 5 is a click",
        prepare=(*_POSTERS, "--standardise", "--pca=64", "--whiten"),
        metrics=(AUC, GAUC, NEW_AUC),
        settings=_MOVIELENS_SETTINGS,
        new_item_impressions=5,
        segment_steps=69,
        has_halves=True,
    ),
    "movielens-raw": Data(
        title="MovieLens-100k with posters, features as the backbone gives them",
        prepare=_POSTERS,
        metrics=(AUC, GAUC, NEW_AUC),
        settings=_MOVIELENS_SETTINGS,
        new_item_impressions=5,
        segment_steps=69,
    ),
    "tiktok-new": _tiktok("items of the test are new", "new_items", "--behaviours=256"),
    "tiktok-new-32": _tiktok(
        "items of the test are new, 32 behaviours (attention takes long of 256)", "new_items"
    ),
    "tiktok-known": _tiktok("items of the test are known", "known_items", "--behaviours=256"),
    "criteo": Data(
        title="Criteo, the first 8,000 rows of its log; a seed is a fold of a cross-validation",
        prepare=(
            "criteo",
            "--source=" + ",".join(f"{{shared}}/criteo/{name}" for name in _CRITEO_FILES),
            "--min_count=4",
            "--embedding_width=8",
            *_FOLDS,
        ),
        metrics=(AUC,),
        settings={IDS: {**_LOG, "epochs": 6}},
        segment_steps=23,
    ),
    "avazu": Data(
        title="Avazu, the first 9,999 rows of its log; a seed is a fold of a cross-validation",
        prepare=(
            "avazu",
            "--source={shared}/avazu/avazu_train_10k.csv",
            "--min_count=4",
            "--embedding_width=8",
            *_FOLDS,
        ),
        metrics=(AUC,),
        settings={IDS: {**_LOG, "epochs": 8}},
        segment_steps=29,
    ),
}


def prepare(
    name: str,
    runs: pathlib.Path,
    shared: pathlib.Path | None,
    seed: int,
    part: str,
    changes: Changes = NO_CHANGES,
) -> pathlib.Path:
    """Makes the data set of a run if it is not there, and returns where it lies.

    Args:
        name: Key of `DATA`.
        runs: Directory for data and runs.
        shared: Directory of data that the project may not ship, or None.
        seed: Of the run.
        part: Half of the training split, or "".
        changes: Of the variant.

    Raises:
        ConfigError: If `shared` is needed and not given.
        AmstfError: If `launch.prepare` fails; with what it said.
    """
    data = DATA[name]
    directory = data.directory(runs, name, seed, part, changes)
    if directory.exists():
        return directory
    if data.needs_shared and shared is None:
        raise ConfigError(
            f"--data={name} needs --shared=DIR, the directory with data that this project may not "
            "ship (movielens/, tiktok/, criteo/, avazu/); --data=synthetic needs nothing"
        )
    flags = data.flags(shared, seed, part, changes)
    programs.run("launch.prepare", *flags, f"--out={directory}")
    return directory
