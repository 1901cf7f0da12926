"""The experiments: tables and figures of the DICM paper (arXiv 1711.06505), and what led to them.

An experiment is a few variants of a run; copy one to make another.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping

from launch.datasets.halves import FIRST, SECOND
from launch.experiments.plan import (
    AUC,
    BEHAVIOURS,
    IDS,
    IMAGES,
    JOINT,
    VALIDATION_AUC,
    Experiment,
    Variant,
)

_IDS = Variant({"model": "embedding_mlp"}, family=IDS)
_DEEPFM = Variant({"model": "deepfm"}, family=IDS)
_CLICKS = ("synthetic", "movielens")
_LOGS = ("criteo", "avazu")
_ALL = (*_CLICKS, "tiktok-new", "tiktok-known")


def _dicm(aggregator: str = "", **changes: object) -> Variant:
    """DICM with that aggregator, or with the one of the data set's settings."""
    family = {"ad": IMAGES, "behaviours": BEHAVIOURS}.get(str(changes.get("images")), JOINT)
    named = {"aggregator": aggregator} if aggregator else {}
    return Variant({"model": "dicm", **named, **changes}, family=family)


def _tuning() -> dict[str, Variant]:
    """The same trials for models of ids and for models with images: ids overfit first."""
    variants = {}
    for family, base in ((IDS, _IDS), (IMAGES, _dicm())):
        for l2, dropout in itertools.product((0.0, 1.0), (0.0, 0.5, 0.9)):
            changes = {**base.changes, "id_l2": l2, "id_dropout": dropout}
            name = f"{family}: id_l2 {l2:g}, id_dropout {dropout:g}"
            variants[name] = Variant(changes, family=base.family)
    return variants


_TRAINED_ON: Mapping[str, object] = {
    "learning_rate": 0.001,
    "decay_steps": 300,
    "epochs": 8,
    "patience": 4,
}


def _trained_on(variant: Variant, after: str, mode: str) -> Variant:
    """A variant that begins with a trained model: itself ("full") or a smaller one ("extend")."""
    changes = {**variant.changes, **_TRAINED_ON, "warm_start_mode": mode}
    return dataclasses.replace(variant, changes=changes, after=after)


_DYNAMIC: Mapping[str, str | None] = {"dynamic": "true"}
_DYNAMIC_LOG: Mapping[str, str | None] = {"min_count": None, **_DYNAMIC}
_AFTER: Mapping[str, object] = {"admission": ("after=4",)}


def _dynamic(
    base: Variant,
    baseline: str,
    prepare: Mapping[str, str | None] = _DYNAMIC,
    **changes: object,
) -> Variant:
    """The same without vocabularies, for which there is no L2 by how often an id occurs."""
    return dataclasses.replace(
        base,
        changes={**base.changes, "id_l2": 0.0, **changes},
        baseline=baseline,
        prepare=prepare,
    )


_IMAGES_BESIDE: Mapping[str, object] = {"images": "both"}
_LONGER = ", longer"


def _mutual(
    alone: Mapping[str, Variant],
    tuning: Mapping[str, object],
    ways: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, Variant]:
    """Models alone and together, from the start and after training alone, and the fair control.

    Args:
        alone: The models by name, from two on; the first of them are those of N = 2, 3, 4, 6.
        tuning: What differs in training that begins with trained models.
        ways: Other ways to train four together by name -> what differs.
    """
    names = tuple(alone)
    variants = dict(alone)
    for name, variant in alone.items():
        changes = {**variant.changes, **tuning, "warm_start_mode": "full"}
        variants[f"{name}{_LONGER}"] = Variant(
            changes, family=variant.family, after=name, baseline=name
        )
    four = names[:4]
    # Of the whole: passes, patience, batches.
    together = functools.partial(Variant, family=alone[names[0]].family)
    variants["average of 4"] = together({"epochs": 0}, members=four)
    variants["4 from scratch"] = together({}, members=four, is_scratch=True)
    for pair in itertools.combinations(four, 2):
        variants[" and ".join(pair)] = together(dict(tuning), members=pair)
    for count in (3, 4, 6):
        variants[f"{count} together"] = together(dict(tuning), members=names[:count])
    for way, changes in (ways or {}).items():
        variants[f"4 together, {way}"] = together({**tuning, **changes}, members=four)
    return variants


EXPERIMENTS: Mapping[str, Experiment] = {
    "images": Experiment(
        title="Which images help (Table 3)",
        variants={
            "ids": _IDS,
            "ad image": _dicm(images="ad"),
            "behaviour images": _dicm(images="behaviours"),
            "joint": _dicm(),
        },
        baseline="ids",
        data=(*_ALL, "movielens-raw"),
    ),
    "aggregators": Experiment(
        title="How the images of behaviours are aggregated (Table 4)",
        variants={
            "no behaviours": _dicm(images="ad"),
            **{name: _dicm(name) for name in ("concat", "max", "sum", "attentive", "multi_query")},
            # Their weights sum to 1: how many behaviours a user has is left out.
            **{name: _dicm(name) for name in ("mean", "attentive_mean", "multi_query_mean")},
        },
        baseline="no behaviours",
        data=_CLICKS,
    ),
    "base_networks": Experiment(
        title="Base networks without and with images (Figure 5)",
        variants={
            "lr": Variant({"model": "lr"}, family=IDS),
            "lr + images": Variant({"model": "lr", **_IMAGES_BESIDE}, family=JOINT),
            "embedding_mlp": _IDS,
            "embedding_mlp + images": _dicm(),
            "din": Variant({"model": "din"}, family=IDS),
            "din + images": Variant({"model": "din", **_IMAGES_BESIDE}, family=JOINT),
        },
        baseline="embedding_mlp",
        data=_CLICKS,
    ),
    "warm_up": Experiment(
        title="Starting from the model of earlier data (Table 5)",
        variants={
            "earlier half": Variant(_dicm().changes, JOINT, part=FIRST, is_shown=False),
            "none": Variant(_dicm().changes, JOINT, part=SECOND),
            **{
                mode: Variant(
                    {**_dicm().changes, "warm_start_mode": mode},
                    JOINT,
                    after="earlier half",
                    part=SECOND,
                )
                for mode in ("partial", "full")
            },
        },
        baseline="none",
        data=_CLICKS,
    ),
    "prerank": Experiment(
        title="Pre-ranking with two towers (Table 8)",
        variants={
            "two towers": Variant({"model": "prerank"}, family=IDS),
            "two towers + images": Variant(
                {"model": "prerank", "images": "both", "aggregator": "mean", "image_dropout": 0.0}
            ),
        },
        baseline="two towers",
        data=_CLICKS,
    ),
    "tuning": Experiment(
        title="Settings, by the validation split alone",
        variants=_tuning(),
        baseline="ids: id_l2 0, id_dropout 0",
        data=_ALL,
        metrics=(VALIDATION_AUC,),
        measures_test=False,
    ),
    "mutual": Experiment(
        title="Mutual learning (arXiv 2406.12087)",
        variants=_mutual(
            {
                "embedding_mlp": _IDS,
                "din": Variant({"model": "din"}, family=IDS),
                "dicm": _dicm(),
                "lr": Variant({"model": "lr"}, family=IDS),
                "embedding_mlp_wide": Variant(
                    {"model": "embedding_mlp", "hidden": (256, 128)}, family=IDS
                ),
                "din_wide": Variant({"model": "din", "hidden": (256, 128)}, family=IDS),
            },
            tuning={"epochs": 2, "learning_rate": 0.001},
        ),
        baseline="embedding_mlp",
        data=_CLICKS,
        metrics=(AUC,),
        is_relative=True,
        control=_LONGER,
    ),
    "mutual_zoo": Experiment(
        title="Mutual learning of models of field interactions (arXiv 2406.12087)",
        variants=_mutual(
            {
                **{
                    model: Variant({"model": model}, family=IDS)
                    for model in ("deepfm", "dcn", "pnn", "fibinet", "dcn_v2")
                },
                "pnn_outer": Variant(
                    {"model": "pnn", "interaction": ("products=outer",)}, family=IDS
                ),
            },
            tuning={"epochs": 3, "learning_rate": 0.0003},
            ways={
                "logit": {"agreement": "logit"},
                "kl": {"agreement": "kl"},
                "warm-up": {"mutual_warm_up": 30},
                "weight 10": {"mutual_weight": 10.0},
                "weight 100": {"mutual_weight": 100.0},
            },
        ),
        baseline="deepfm",
        data=_LOGS,
        metrics=(AUC,),
        is_relative=True,
        control=_LONGER,
    ),
    "signal": Experiment(
        title="Ways to make a small signal in images pay",
        variants={
            "ids": _IDS,
            "ad image": _dicm(images="ad"),
            "joint": _dicm(),
            "no image dropout": _dicm(image_dropout=0.0),
            "dropout in E": _dicm(tower_dropout=0.5),
            "wide E": _dicm(tower=(256, 64, 12)),
            "narrow E": _dicm(tower=(4,)),
            "sum of behaviours": _dicm("sum"),
            "products": _dicm(image_products=True),
            "at length 1": _dicm(unit_images=True),
            "more image dropout": _dicm(image_dropout=0.8),
            "E without ids": Variant(
                {
                    **_dicm().changes,
                    "id_dropout": 0.99,
                    "id_dropout_fields": (
                        "movie",
                        "ad_image_id",
                        "behaviour_image_ids",
                        "genres",
                        "release_year_bucket",
                    ),
                },
                is_shown=False,
            ),
            "E trained without ids first": Variant(
                {**_dicm().changes, "warm_start_mode": "images"}, after="E without ids"
            ),
            "partial warm-up by joint": Variant(
                {**_dicm().changes, "warm_start_mode": "partial"}, after="joint"
            ),
        },
        baseline="ids",
        data=("movielens",),
    ),
    "added_images": Experiment(
        title="Images added to a trained model of ids",
        variants={
            "ids": _IDS,
            "ids, longer": _trained_on(_IDS, "ids", "full"),
            **{
                f"{name}, added": _trained_on(
                    _dicm("mean", images=images, unit_images=True, image_dropout=0.0, **products),
                    "ids",
                    "extend",
                )
                for name, images, products in (
                    ("ad image", "ad", {}),
                    ("behaviour images", "behaviours", {}),
                    ("joint", "both", {"image_products": True}),
                )
            },
        },
        baseline="ids, longer",
        data=("movielens",),
    ),
    "content": Experiment(
        title="Vectors of videos for new and for known items",
        variants={
            "ids": _IDS,
            "joint": _dicm(),
            "not at length 1": _dicm(unit_images=False),
        },
        baseline="ids",
        data=("tiktok-new", "tiktok-known"),
    ),
    "content_aggregators": Experiment(
        title="How the vectors of a user's videos are aggregated",
        variants={
            "mean": _dicm(),
            "attentive": _dicm("attentive"),
            "attentive, weights of a sum of 1": _dicm("attentive_mean"),
            "mean, longer": _trained_on(_dicm(), "mean", "full"),
            "attentive, added to the mean": dataclasses.replace(
                _trained_on(_dicm("attentive_mean"), "mean", "extend"), baseline="mean, longer"
            ),
        },
        baseline="mean",
        data=("tiktok-new-32",),
    ),
    "dynamic": Experiment(
        title="Ids without a vocabulary",
        variants={
            "ids": dataclasses.replace(_IDS, changes={**_IDS.changes, "id_l2": 0.0}),
            "ids, dynamic": _dynamic(_IDS, "ids"),
            "ids, dynamic, after 4 sights": _dynamic(_IDS, "ids", **_AFTER),
            "joint": _dicm(id_l2=0.0),
            "joint, dynamic": _dynamic(_dicm(), "joint"),
            "ids, L2": _IDS,
        },
        baseline="ids",
        data=("movielens",),
    ),
    "dynamic_logs": Experiment(
        title="Values of logs without a vocabulary",
        variants={
            "all values": dataclasses.replace(_DEEPFM, prepare={"min_count": "1"}),
            "those seen 4 times": _DEEPFM,
            "dynamic": _dynamic(_DEEPFM, "all values", _DYNAMIC_LOG),
            "dynamic, after 4 sights": _dynamic(
                _DEEPFM, "those seen 4 times", _DYNAMIC_LOG, **_AFTER
            ),
        },
        baseline="all values",
        data=_LOGS,
    ),
}
