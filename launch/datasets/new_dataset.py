"""A data set directory that appears whole or not at all."""

from __future__ import annotations

import os
import pathlib
from contextlib import AbstractContextManager

from amstf.data.manifest import MANIFEST_FILE
from amstf.errors import SampleError
from launch.new_directory import new_directory


def new_dataset(
    out: str | os.PathLike[str], *, overwrite: bool = False
) -> AbstractContextManager[pathlib.Path]:
    """Gives a directory to write a data set into, which becomes `out` when the block ends well.

    Args:
        out: The data set directory to make.
        overwrite: Whether a data set that is there may be replaced. It stays until the new one is
            complete. A directory that is no data set is never replaced.

    Raises:
        SampleError: If `out` exists and may not be replaced.
    """
    return new_directory(
        out, what="a data set", marker=MANIFEST_FILE, overwrite=overwrite, error=SampleError
    )
