"""Says which images could not be used, in a CSV file beside the store."""

from __future__ import annotations

import collections
import csv
import io
import pathlib
from collections.abc import Sequence

from amstf.atomic_file import write_atomically
from launch.extraction.pipeline import Broken


def report_path(store: pathlib.Path) -> pathlib.Path:
    """Returns where the report of a store lies: images.broken.csv for images.h5."""
    return store.with_name(f"{store.stem}.broken.csv")


def write_report(store: pathlib.Path, broken: Sequence[Broken]) -> pathlib.Path | None:
    """Writes the report, or removes an earlier one if nothing is broken any more.

    Args:
        store: The store that lacks the images.
        broken: The images, and why.

    Returns:
        The file; None if there is none.
    """
    path = report_path(store)
    if not broken:
        path.unlink(missing_ok=True)
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "path", "reason"])
    writer.writerows([image.id, image.path, image.reason] for image in broken)
    write_atomically(path, text.getvalue())
    return path


def reasons(broken: Sequence[Broken], most: int = 3) -> str:
    """Returns the most frequent reasons, for people.

    Example:
        >>> reasons([Broken(1, "a", "the file is empty"), Broken(2, "b", "the file is empty")])
        'the file is empty (2)'
    """
    counted = collections.Counter(image.reason for image in broken)
    named = [f"{reason} ({count})" for reason, count in counted.most_common(most)]
    return ", ".join(named) + (", ..." if len(counted) > most else "")
