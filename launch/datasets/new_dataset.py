"""A data set directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from amstf.data.manifest import MANIFEST_FILE
from amstf.errors import SampleError


@contextlib.contextmanager
def new_dataset(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Gives a directory to write a data set into, which becomes `out` when the block ends well.

    Args:
        out: The data set directory to make.
        overwrite: Whether a data set that is there may be replaced. It stays until the new one is
            complete. A directory that is no data set is never replaced.

    Raises:
        SampleError: If `out` exists and may not be replaced.

    Example:
        >>> import tempfile
        >>> out = pathlib.Path(tempfile.mkdtemp(), "data")
        >>> with new_dataset(out) as directory:
        ...     _ = (directory / "manifest.json").write_text("{}")
        >>> out.exists()
        True
    """
    out = pathlib.Path(os.path.abspath(out))
    _check(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, so that the last step is a rename within one file system. The process id keeps
    # two programs apart; what a killed one leaves has a name that says what it is.
    work = out.with_name(f".{out.name}.preparing-{os.getpid()}")
    replaced = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        _check(out, overwrite)
        if out.exists():
            out.rename(replaced)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _check(out: pathlib.Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    if not (out / MANIFEST_FILE).exists():
        raise SampleError(
            f"{out} exists and is not a data set, so it is left alone; choose another --out"
        )
    if not overwrite:
        raise SampleError(
            f"{out} is a data set already; choose another --out, or replace it with --overwrite"
        )
