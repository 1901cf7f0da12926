"""The model card of an export: what the model is, how good it is, and checksums of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from amstf.data import Samples
from amstf.schema import Schema
from launch.click_model import checkpoint_of
from launch.json_files import read_json
from launch.run_directory import RunDirectory

CARD_JSON = "assets.extra/model_card.json"
CARD_MARKDOWN = "assets.extra/model_card.md"
_COLUMNS = ("auc", "gauc", "log_loss", "calibration", "impressions")


def write_model_card(
    export: pathlib.Path,
    run: RunDirectory,
    which: str,
    samples: Samples,
    description: dict[str, Any],
    differences: dict[str, float],
) -> dict[str, Any]:
    """Writes the model card of an export, as JSON and as Markdown.

    Args:
        export: Directory of the SavedModel, in which all else is written already.
        run: The run that the model comes from.
        which: Which of its checkpoints, "best" or "last".
        samples: The data set.
        description: What `amstf.export.export` returned.
        differences: What `check_export` returned.

    Returns:
        The content of the JSON file.
    """
    config = run.read_config()
    checkpoint = checkpoint_of(run, which)
    report = read_json(run.report, "a run") if run.report.exists() else {}
    card = {
        "version": 1,
        "model": config.title,
        "run": str(run.path.absolute()),
        "checkpoint": pathlib.Path(checkpoint).name,
        "configuration": dataclasses.asdict(config),
        "data": {
            "dataset": str(samples.directory),
            "impressions": {split: samples.num_impressions(split) for split in samples.splits},
        },
        "training": {
            name: report[name] for name in ("ended", "steps", "samples", "epochs") if name in report
        },
        "metrics": _metrics(run, which, checkpoint, report),
        "checked": {"greatest_difference_from_the_model": differences},
        "schema": description["schema"],
        "signatures": description["signatures"],
        "images": description["images"],
        "dynamic_tables": description["dynamic_tables"],
        "versions": description["versions"],
        "sha256": checksums(export),
    }
    (export / CARD_JSON).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (export / CARD_MARKDOWN).write_text(to_markdown(card), encoding="utf-8")
    return card


def _metrics(
    run: RunDirectory, which: str, checkpoint: str, report: dict[str, Any]
) -> dict[str, Any]:
    """Returns split -> what was measured there, of this checkpoint and no other."""
    found: dict[str, Any] = {}
    best = report.get("best_validation")
    if best and which == "best":
        found["validation"] = {name.removeprefix("validation_"): v for name, v in best.items()}
    trained = pathlib.Path(checkpoint + ".index").stat().st_mtime
    for path in sorted(run.path.glob("evaluation-*.json")):
        evaluation = read_json(path, "a run")
        # Of the best weights so far, which later ones may have replaced.
        if evaluation.get("checkpoint") == which and path.stat().st_mtime >= trained:
            found[path.stem.removeprefix("evaluation-")] = evaluation
    return found


def checksums(export: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of an export but for the cards, by its relative path."""
    found = {}
    for path in sorted(export.rglob("*")):
        name = path.relative_to(export).as_posix()
        if path.is_file() and name not in (CARD_JSON, CARD_MARKDOWN):
            with open(path, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def to_markdown(card: dict[str, Any]) -> str:
    """Returns a model card for people."""
    lines = [f"# {card['model']}", ""]
    lines += [f"- Run: `{card['run']}`, checkpoint `{card['checkpoint']}`"]
    counts = ", ".join(f"{name} {n:,}" for name, n in card["data"]["impressions"].items())
    lines += [f"- Data: `{card['data']['dataset']}` ({counts} impressions)"]
    if card["training"]:
        lines += ["- Training: " + ", ".join(f"{k} {v}" for k, v in card["training"].items())]
    checked = card["checked"]["greatest_difference_from_the_model"]
    if checked:
        lines += [
            f"- Checked in a process of TensorFlow alone: at most {max(checked.values()):.1e} from "
            "the model"
        ]
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    lines += [f"- Made with {versions}", "", "## Metrics", ""]
    rows = {name: _numbers(metrics) for name, metrics in card["metrics"].items()}
    if rows:
        lines += _table(
            ["split", *_COLUMNS],
            [[name, *(row.get(key, "") for key in _COLUMNS)] for name, row in rows.items()],
        )
    else:
        lines += [
            "None of this checkpoint: `python -m launch.evaluate --run=RUN`, then export again."
        ]
    schema = Schema.from_json(json.dumps(card["schema"]))
    lines += ["", "## Fields", ""]
    lines += _table(
        ["field", "kind", "side", "list", "ids", "store"],
        [
            [f.name, f.kind, f.side, "yes" if f.is_list else "", f"{f.num_ids:,}" if f.num_ids
             else "dynamic" if f.dynamic else "", f.store_name if f.kind == "image" else ""]
            for f in schema.fields
        ],
    )  # fmt: skip
    lines += ["", "## Signatures", ""]
    lines += _table(
        ["signature", "inputs", "outputs"],
        [
            [name, ", ".join(each["inputs"]), ", ".join(each["outputs"])]
            for name, each in card["signatures"].items()
        ],
    )
    for store, images in card["images"].items():
        where = f"`{images['file']}`" if "file" in images else "inside the model"
        lines += [
            "",
            f"Images of `{store}`: {images['images']:,} embeddings of {images['embedding_width']} "
            f"{images['dtype']}, {where}. An id that is not among them has the embedding zero.",
        ]
    for name, table in card["dynamic_tables"].items():
        lines += [
            "",
            f"Dynamic table `{name}`: {table['rows']:,} ids have a row of {table['width']} "
            "float32. An id that is not among them is an unknown one.",
        ]
    lines += ["", "## Checksums (SHA-256)", "", "```"]
    lines += [f"{digest}  {name}" for name, digest in card["sha256"].items()]
    return "\n".join([*lines, "```", ""])


def _numbers(metrics: dict[str, Any]) -> dict[str, str]:
    """Returns the numbers of the whole split; those of its parts are in the JSON."""
    inner = metrics.get("metrics", metrics)
    inner = inner.get("all", inner) if isinstance(inner, dict) else {}
    return {
        key: f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        for key, value in inner.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]
