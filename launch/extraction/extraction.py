"""Runs images through a backbone into a store: resumable, and only what is new."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from amstf.errors import ConfigError
from amstf.store import ImageStore
from launch.extraction.backbone import Backbone
from launch.extraction.image_list import ImageList
from launch.extraction.pipeline import Batch, Broken, decoded_batches
from launch.extraction.report import reasons, report_path, write_report
from launch.extraction.work_directory import WorkDirectory
from launch.stores.rounding import RoundingLoss

_LARGE_LOSS = 0.01
"""Of the features' root mean square: from here on another type is recommended."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to extract.

    Attributes:
        out: The store to make or to add to.
        dtype: Stored type.
        fit: See `decoding.decode`.
        stop_at_broken: Whether the first broken image ends the run.
        overwrite: Whether a store that is there is replaced.
        batch_size: Images that the backbone gets at a time.
        threads: Images decoded at a time.
        facts: Attributes for the store that do not decide the features.
    """

    out: pathlib.Path
    dtype: str = "float16"
    fit: str = "stretch"
    stop_at_broken: bool = False
    overwrite: bool = False
    batch_size: int = 32
    threads: int = 2
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Extracted:
    """What a run did.

    Attributes:
        store: The store.
        new: Images that this run went through the backbone with.
        resumed: Images that a stopped run had done.
        before: Images that the store had.
        broken: Images that could not be read.
        ignored: Files that are not called like images.
        seconds: Time from the first image to the last.
        loss: What the stored type cost the new images.
        report: List of the broken images; None if there is none.
    """

    store: ImageStore
    new: int
    resumed: int
    before: int
    broken: list[Broken]
    ignored: int
    seconds: float
    loss: RoundingLoss
    report: pathlib.Path | None

    def summary(self, out: str) -> str:
        """Returns what was done, for people."""
        store, made_by = self.store, self.store.attributes
        size = sum(file.bytes for file in store.files)
        lines = [
            f"{out}: {len(store):,} images of {store.width:,} features, {store.dtype}, "
            f"{size / 1e6:,.1f} MB",
            f"  backbone: {made_by['backbone']}, layer {made_by['layer']}, weights "
            f"{made_by['weights']} (sha256 {made_by['weights_sha256'][:12]})",
        ]
        speed = f" in {self.seconds:.1f} s, {self.new / self.seconds:,.1f} a second" * (
            self.new > 0
        )
        lines.append(f"  new: {_count(self.new, 'image')}{speed}")
        if self.resumed:
            lines.append(f"  done by a run that was stopped: {_count(self.resumed, 'image')}")
        if self.before:
            lines.append(f"  in the store before: {_count(self.before, 'image')}")
        if self.report:
            lines.append(
                f"  broken: {_count(len(self.broken), 'image')} left out, see {self.report}: "
                f"{reasons(self.broken)}"
            )
        if self.ignored:
            lines.append(f"  ignored: {_count(self.ignored, 'file')} without a name of an image")
        if self.new and store.dtype != "float32":
            lines.append(f"  rounding to {store.dtype}: {self.loss}")
            if self.loss.root_mean_square > _LARGE_LOSS:
                lines.append("  warning: that is much; consider --dtype=float32 --overwrite")
        if made_by["weights_are_random"]:
            lines.append(
                "  warning: the weights are random; for trials only (the store's attributes say so)"
            )
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def extract(
    images: ImageList,
    backbone: Backbone,
    settings: Settings,
    progress: Callable[[int, int], Any] | None = None,
) -> Extracted:
    """Extracts the features of images that the store does not have yet.

    Args:
        images: The images.
        backbone: What makes features of them.
        settings: How.
        progress: Called with the number of images and how many are done already; gives an object
            with `update(n)` and `close()`, as tqdm does.

    Raises:
        ConfigError: If no image could be read, one was broken and that is to end the run, or the
            store was made in another way.
        StoreError: If features cannot be stored in that type.
    """
    decides = {**backbone.attributes, "fit": settings.fit}
    with WorkDirectory(
        settings.out, decides, settings.dtype, backbone.width, overwrite=settings.overwrite
    ) as work:
        before = len(work.before) if work.before else 0
        resumed = work.from_before
        todo = np.flatnonzero(~np.isin(images.ids, work.ids))
        bar = progress(len(images), len(images) - len(todo)) if progress else None
        begin, new, broken = time.perf_counter(), 0, []
        loss = RoundingLoss(settings.dtype)
        try:
            for batch in decoded_batches(
                images.ids[todo].tolist(),
                [images.paths[row] for row in todo],
                size=backbone.image_size,
                fit=settings.fit,
                batch_size=settings.batch_size,
                threads=settings.threads,
            ):
                ids, features, found = _features(backbone, batch, images)
                work.add(ids, features)
                loss.add(features)
                new += len(ids)
                if found and settings.stop_at_broken:
                    raise ConfigError(
                        f"{found[0].path} (image id {found[0].id}): {found[0].reason}; mend or "
                        "remove it, or leave broken images out with --broken=skip. What is done "
                        "is kept: the same command goes on from here"
                    )
                broken += found
                if bar is not None:
                    bar.update(len(batch.ids) + len(batch.broken))
        finally:
            if bar is not None:
                bar.close()
        seconds = time.perf_counter() - begin
        if not (new or resumed or before):
            write_report(settings.out, broken)
            work.remove()
            raise ConfigError(
                f"none of the {len(broken):,} images could be read, see "
                f"{report_path(settings.out)}: {reasons(broken)}"
            )
        if new or resumed or not before:
            store = work.finish(settings.facts)
        else:
            store = work.keep()
        report = write_report(settings.out, broken)
    return Extracted(store, new, resumed, before, broken, images.ignored, seconds, loss, report)


def _features(
    backbone: Backbone, batch: Batch, images: ImageList
) -> tuple[np.ndarray, np.ndarray, list[Broken]]:
    """Ids [n] and features [n, F] of the images of a batch that have some, and the others."""
    broken = list(batch.broken)
    if not len(batch.ids):
        return batch.ids, np.empty((0, backbone.width), np.float32), broken
    features = backbone.features(batch.images)
    is_good = np.isfinite(features).all(axis=1)
    for image_id in batch.ids[~is_good].tolist():
        broken.append(Broken(image_id, images.path(image_id), "its features are not finite"))
    return batch.ids[is_good], features[is_good], broken
