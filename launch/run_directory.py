"""A run directory: what a training leaves behind, and how the other programs find it again.

RUN/config.json       what was asked for
RUN/schema.json       the fields that the model was trained on
RUN/checkpoints/      the newest checkpoints, to continue from
RUN/best/             the checkpoint with the best validation AUC
RUN/history.csv       a row for each log interval and each validation
RUN/curves.png        loss and AUC by step
RUN/tensorboard/      the same for TensorBoard
RUN/report.json       the end: configuration, versions, metrics, times, counters
RUN/evaluations.csv   what an evaluator process measured, a row for each checkpoint
RUN/report.html       launch.report: all of it, for people
RUN/logs/             output of workers and servers of a local cluster
RUN/members/NAME/     of a run of launch.mutual: each of its models, as a run of its own
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.config import MISSING_POLICIES, AmsConfig
from amstf.errors import ConfigError
from amstf.schema import Schema
from launch.dynamic_rules import admission_of, evictions_of
from launch.interaction import options_of
from launch.json_files import read_json
from launch.store_servers import servers_of

LR, EMBEDDING_MLP, DIN, DICM, PRERANK, DEEPFM, DCN, DCN_V2, PNN, FIBINET = MODELS = (
    "lr",
    "embedding_mlp",
    "din",
    "dicm",
    "prerank",
    "deepfm",
    "dcn",
    "dcn_v2",
    "pnn",
    "fibinet",
)
"""Models; dicm is embedding_mlp with images."""

MUTUAL = "mutual"
"""Model of a run of launch.mutual: several that are trained together."""

AGREEMENTS = ("squared", "logit", "kl")
"""As `models.AGREEMENTS`."""

NO_IMAGES, AD_IMAGE, BEHAVIOUR_IMAGES, BOTH_IMAGES = IMAGES = ("none", "ad", "behaviours", "both")
"""Images that a model sees."""

AGGREGATORS = (
    "sum", "mean", "max", "concat", "attentive", "multi_query", "attentive_mean",
    "multi_query_mean",
)  # fmt: skip
"""As `models.AGGREGATORS`, which would take TensorFlow to import."""

ACTIVATIONS = ("prelu", "relu", "elu", "gelu", "swish", "tanh")
"""Activations that both an MLP and E can have; the names are those of Keras."""

TOWER_ACTIVATIONS = (*ACTIVATIONS, "linear")
"""Those that E alone can have."""

ALL_LABELS, FIRST_LABEL = LABELS = ("all", "first")
"""Labels that a model predicts."""

CHIEF, EVALUATOR, NONE = VALIDATIONS = ("chief", "evaluator", "none")
"""Who validates: the chief between segments, an evaluator process, or nobody."""

ALL, NEW = "all", "new items"
"""Parts of a split that an evaluation measures: all impressions, and those of new items."""

WARM_STARTS = ("none", "partial", "full", "images", "extend")
NO_START, PARTIAL_START, FULL_START, IMAGES_START, EXTEND_START = WARM_STARTS
"""What begins with another run's weights: nothing, all but what belongs to ids, all, E alone, or
all of a smaller model."""

INTERRUPTED = "interrupted"
"""How the report says that a training ended which was not done."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run was asked for.

    Attributes:
        dataset: Directory of the data set.
        model: One of `MODELS`, or `MUTUAL`.
        hidden: Widths of the MLP.
        dropout: Dropout of the MLP in training.
        tower: Widths of the trainable part of E; the last is D.
        tower_dropout: Dropout of E in training.
        aggregator: How behaviour images are pooled, one of `AGGREGATORS`.
        missing: What an image that the store lacks does, one of `MISSING_POLICIES`.
        batch_size: Samples per step and worker (B).
        epochs: Passes over the training split.
        learning_rate: Of Adam.
        seed: Of initial weights and of shuffling.
        patience: Validations without a better AUC until training stops; 0: never.
        image_width: Raw features of an image (F); 0 for a model without images. Of several stores
            that differ a dict of store name -> F.
        ams: How a cluster embeds images.
        images: Images that the model sees, one of `IMAGES`; "" for those that its name stands for:
            both of dicm, none of the others.
        labels: Of several labels predict "all", or the "first" alone (as prerank does).
        warm_start: Directory of the run whose weights this one begins with; "" for none.
        id_l2: L2 of embeddings of ids by how often an id occurs, see `models.IdRegularization`.
        id_gate: Occurrences after which an id says half of what it could; 0: no gate.
        id_gate_fields: Fields with the gate; () for the ad's.
        id_dropout: Probability that in training an id counts as unknown.
        id_dropout_fields: Fields with that dropout; () for the ad's.
        image_dropout: Probability that in training a sample's images are dropped.
        image_products: Whether a model with images sees the product of ad and behaviours too.
        unit_images: Whether it sees images at length 1.
        learning_rate_decay: Factor of the learning rate every `decay_steps`; 1: none.
        decay_steps: Updates of the optimizer.
        preset: Name of the flags' preset, "" for none; what they were is in the other attributes.
        warm_start_mode: Which of its weights, one of `WARM_STARTS`; "" for partial with
            `warm_start`, none without.
        members: Of a model `MUTUAL` name -> what each of its models is; data set, batches, passes
            patience, cluster and what is about dynamic tables are those of the whole.
        agreement: One of `AGREEMENTS`.
        mutual_weight: Of the agreement in each model's loss.
        mutual_warm_up: Updates of the optimizer over which that grows from 0.
        interaction: Options of a model of field interactions, each "name=value"; see
            `launch.interaction`.
        activation: Of the MLP and of E, one of `ACTIVATIONS`; "" for each model's own.
        tower_activation: Of E, one of `TOWER_ACTIVATIONS`; "" for `activation`.
        separate_towers: Whether each image store has an E of its own, of one kind or not.
        store_servers: Parameter servers that hold an image store, each "store:index"; see
            `launch.store_servers`.
        full_checkpoint_every: Of so many checkpoints one has all rows of dynamic tables.
        dynamic_memory: MiB that dynamic tables may take on each server; 0: no limit.
        admission: Which ids of dynamic fields get a row, each "name=value"; see
            `launch.dynamic_rules`.
        eviction: Which rows of dynamic tables die, likewise.
    """

    dataset: str
    model: str
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    tower: tuple[int, ...] = (256, 64, 12)
    tower_dropout: float = 0.0
    aggregator: str = "sum"
    missing: str = "error"
    batch_size: int = 256
    epochs: int = 2
    learning_rate: float = 0.001
    seed: int = 0
    patience: int = 0
    image_width: int | dict[str, int] = 0
    ams: AmsConfig = dataclasses.field(default_factory=AmsConfig)
    images: str = ""
    labels: str = ALL_LABELS
    warm_start: str = ""
    warm_start_mode: str = ""
    id_l2: float = 0.0
    id_gate: float = 0.0
    id_gate_fields: tuple[str, ...] = ()
    id_dropout: float = 0.0
    id_dropout_fields: tuple[str, ...] = ()
    image_dropout: float = 0.0
    image_products: bool = False
    unit_images: bool = False
    learning_rate_decay: float = 1.0
    decay_steps: int = 24_000
    preset: str = ""
    members: dict[str, RunConfig] = dataclasses.field(default_factory=dict)
    agreement: str = AGREEMENTS[0]
    mutual_weight: float = 1.0
    mutual_warm_up: int = 0
    interaction: tuple[str, ...] = ()
    activation: str = ""
    tower_activation: str = ""
    separate_towers: bool = False
    store_servers: tuple[str, ...] = ()
    full_checkpoint_every: int = 1
    dynamic_memory: int = 0
    admission: tuple[str, ...] = ()
    eviction: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.members) != (self.model == MUTUAL):
            raise ConfigError(
                f"model {self.model} with {len(self.members)} members; {MUTUAL} has some, the "
                "others none"
            )
        shared = {name: getattr(self, name) for name in _OF_THE_WHOLE}
        members = {n: dataclasses.replace(m, **shared) for n, m in self.members.items()}
        object.__setattr__(self, "members", members)
        if self.images == "":
            sees_images = any(member.images != NO_IMAGES for member in self.members.values())
            sees_images |= self.model == DICM
            object.__setattr__(self, "images", BOTH_IMAGES if sees_images else NO_IMAGES)
        if (self.model, self.images) == (DICM, NO_IMAGES):
            raise ConfigError(
                f"model dicm without images is {EMBEDDING_MLP}; ask for that, or for some of "
                f"the images: {', '.join(IMAGES[1:])}"
            )
        if self.warm_start_mode == "":
            mode = PARTIAL_START if self.warm_start else NO_START
            object.__setattr__(self, "warm_start_mode", mode)
        if self.warm_start_mode == NO_START:
            object.__setattr__(self, "warm_start", "")
        elif not self.warm_start:
            raise ConfigError(
                f"--warm_start_mode={self.warm_start_mode} needs --warm_start, the run to begin "
                "with"
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            values = value if name in _WIDTHS and isinstance(value, tuple) else (value,)
            if name == "image_width" and isinstance(value, dict):
                values = tuple(value.values())
            whole = isinstance(high, int)
            good = all(isinstance(v, int if whole else (int, float)) for v in values)
            good = good and not any(isinstance(v, bool) for v in values)
            # Written so that NaN is outside of every range.
            if not (good and values and all(low <= v <= high for v in values)):
                kind = "a whole number" if whole else "a number"
                kind = "whole numbers" if name in _WIDTHS else kind
                raise ConfigError(f"{name} is {value!r}; wanted {kind} from {low:,} to {high:,}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; use {' or '.join(map(str, choices))}"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "tuple[str, ...]" and not isinstance(value, tuple):
                raise ConfigError(f"{field.name} is {value!r}; wanted a list of texts")
        options_of(self.model, self.interaction)
        servers_of(self.store_servers)
        admission_of(self.admission)
        evictions_of(self.eviction)
        if not isinstance(self.dataset, str) or not self.dataset or "\0" in self.dataset:
            raise ConfigError(f"dataset is {self.dataset!r}; wanted a directory")

    @property
    def title(self) -> str:
        """The model in a few words."""
        if self.members:
            return ", ".join(f"{name} ({m.title})" for name, m in self.members.items())
        usual = BOTH_IMAGES if self.model == DICM else NO_IMAGES
        return self.model if self.images == usual else f"{self.model}, images: {self.images}"

    def to_json(self) -> str:
        """Returns the configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


_OF_THE_WHOLE = (
    "dataset", "batch_size", "epochs", "patience", "ams", "dynamic_memory",
    "full_checkpoint_every", "admission", "eviction",
)  # fmt: skip
_WIDTHS = ("hidden", "tower")
# Floats where floats are wanted. Far above use, and far below what a weight's size overflows at.
_RANGES: dict[str, tuple[float, float]] = {
    "hidden": (1, 1 << 20),
    "tower": (1, 1 << 20),
    "dropout": (0.0, 0.99),
    "tower_dropout": (0.0, 0.99),
    "batch_size": (1, 1 << 24),
    "epochs": (0, 1 << 31),
    "learning_rate": (0.0, sys.float_info.max),
    "seed": (0, 2**32 - 1),
    "patience": (0, 1 << 31),
    "image_width": (0, 1 << 32),
    "id_l2": (0.0, sys.float_info.max),
    "id_gate": (0.0, sys.float_info.max),
    "id_dropout": (0.0, 0.99),
    "image_dropout": (0.0, 0.99),
    "learning_rate_decay": (0.0, 1.0),
    "decay_steps": (1, 1 << 31),
    "mutual_weight": (0.0, sys.float_info.max),
    "mutual_warm_up": (0, 1 << 31),
    "full_checkpoint_every": (1, 1 << 16),
    "dynamic_memory": (0, 1 << 31),
}
_CHOICES = {
    "model": (*MODELS, MUTUAL),
    "aggregator": AGGREGATORS,
    "missing": MISSING_POLICIES,
    "images": IMAGES,
    "labels": LABELS,
    "warm_start_mode": WARM_STARTS,
    "image_products": (False, True),
    "unit_images": (False, True),
    "agreement": AGREEMENTS,
    "activation": ("", *ACTIVATIONS),
    "tower_activation": ("", *TOWER_ACTIVATIONS),
    "separate_towers": (False, True),
}

# What configurations of earlier versions lack, where the default now is not what their runs did.
_ADDED = {"images": "", "labels": FIRST_LABEL, "members": {}}

# What may change between two calls that continue one run.
_MAY_CHANGE = (
    "epochs", "patience", "ams", "dataset", "preset", "store_servers", "dynamic_memory",
    "full_checkpoint_every", "admission", "eviction",
)  # fmt: skip


class RunDirectory:
    """Paths and files of a run.

    Args:
        path: The directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if files.is_remote(path):
            raise ConfigError(
                f"{path} is on another file system, but a run's logs and tables are written in "
                "place: name a local or mounted directory, and copy it there when it is done"
            )
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.history = self.path / "history.csv"
        self.curves = self.path / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self.report = self.path / "report.json"
        self.logs = self.path / "logs"
        self.evaluations = self.path / "evaluations.csv"
        self.page = self.path / "report.html"

    def member(self, name: str) -> RunDirectory:
        """Returns the run of one model of a run of launch.mutual."""
        return RunDirectory(self.path / "members" / name)

    def check(self, config: RunConfig) -> None:
        """Checks that `config` continues the run in the directory, if something was trained there.

        Raises:
            ConfigError: Naming what differs.
        """
        if not self._has_checkpoint():
            for one in (config, *config.members.values()):
                if one.warm_start:
                    _check_is_run(one.warm_start)
            return
        before, now = _settings(self.read_config()), _settings(config)
        if before["labels"] != config.labels and len(Schema.load(self.path).labels) == 1:
            before["labels"] = config.labels  # The same: a run of an earlier version goes on.
        differing = [
            f"{name} {before.get(name)!r} (now {now.get(name)!r})"
            for name in {**now, **before}
            if before.get(name) != now.get(name) and not _is_not_yet_known(name, now.get(name))
        ]
        if differing:
            raise ConfigError(
                f"{self.path} holds a run with {', '.join(differing)}; to continue it, ask for the "
                "same, to start another, choose another --out"
            )

    def begin(self, config: RunConfig) -> None:
        """Writes the configuration of a run that begins or goes on; see `check`."""
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._has_checkpoint():
            # Left by a run that failed before its first checkpoint; its steps are not ours.
            self.history.unlink(missing_ok=True)
            self.evaluations.unlink(missing_ok=True)
        write_atomically(self.config, config.to_json())

    def _has_checkpoint(self) -> bool:
        return any(self.checkpoints.glob("*.index"))

    def read_config(self) -> RunConfig:
        """Reads the configuration of the run.

        Raises:
            ConfigError: If the directory holds no run, or one of another version.
        """
        content = read_json(self.config, "a run; python -m launch.train makes one")
        return self._config_of(content)

    def _config_of(self, content: dict[str, Any]) -> RunConfig:
        content = {**_added(), **content}
        names = {field.name for field in dataclasses.fields(RunConfig)}
        ams = content.get("ams")
        if isinstance(ams, dict):
            ams = {**dataclasses.asdict(AmsConfig()), **ams}
        ams_names = {field.name for field in dataclasses.fields(AmsConfig)}
        members = content.get("members")
        are_dicts = isinstance(members, dict) and all(isinstance(m, dict) for m in members.values())
        are_dicts = are_dicts and isinstance(ams, dict)
        if not are_dicts or content.keys() != names or ams.keys() != ams_names:
            raise ConfigError(f"{self.config} is not the configuration of a run of this version")
        content["members"] = {name: self._config_of(member) for name, member in members.items()}
        lists = {name: tuple(v) for name, v in content.items() if isinstance(v, list)}
        try:
            return RunConfig(**{**content, **lists, "ams": AmsConfig(**ams)})
        except ConfigError as error:
            raise ConfigError(f"{self.config}: {error}") from error


def _settings(config: RunConfig) -> dict[str, Any]:
    """Returns what may not change while a run goes on; that of members as MEMBER.ATTRIBUTE."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _MAY_CHANGE}
    del settings["members"]
    for name, member in config.members.items():
        settings |= {f"{name}.{key}": value for key, value in _settings(member).items()}
    return settings


def _is_not_yet_known(name: str, value: Any) -> bool:
    """Whether this is F, before the image store is open."""
    return name.rpartition(".")[2] == "image_width" and value == 0


def _added() -> dict[str, Any]:
    """Values of attributes that a configuration of an earlier version may lack."""
    fields = dataclasses.fields(RunConfig)
    later = {f.name: f.default for f in fields[[f.name for f in fields].index("images") :]}
    return {**later, **_ADDED}


def _check_is_run(warm_start: str) -> None:
    try:
        RunDirectory(warm_start).read_config()
    except ConfigError as error:
        raise ConfigError(f"--warm_start={warm_start}: {error}") from error
