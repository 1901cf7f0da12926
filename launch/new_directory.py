"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from amstf import files
from amstf.errors import AmstfError


@contextlib.contextmanager
def new_directory(
    out: str | os.PathLike[str],
    *,
    what: str,
    marker: str,
    overwrite: bool = False,
    error: type[AmstfError] = AmstfError,
) -> Iterator[pathlib.Path]:
    """Gives a directory to write into, which becomes `out` when the block ends well.

    Args:
        out: The directory to make.
        what: What it will be, for messages: "a data set".
        marker: A file that every such directory has.
        overwrite: Whether one that is there may be replaced. It stays until the new one is
            complete. A directory without the marker is never replaced.
        error: Class of the error.

    Raises:
        AmstfError: Of class `error`, if `out` exists and may not be replaced.

    Example:
        >>> import tempfile
        >>> out = pathlib.Path(tempfile.mkdtemp(), "data")
        >>> with new_directory(out, what="a data set", marker="manifest.json") as directory:
        ...     _ = (directory / "manifest.json").write_text("{}")
        >>> out.exists()
        True
    """
    files.refuse_remote(out, "--out", error)
    out = pathlib.Path(os.path.abspath(out))

    def check() -> None:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
        if not (out / marker).exists():
            raise error(
                f"{out} exists and is not {what}, so it is left alone; choose another --out"
            )
        if not overwrite:
            raise error(
                f"{out} is {what} already; choose another --out, or replace it with --overwrite"
            )

    check()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, so that the last step is a rename within one file system. The process id keeps
    # two programs apart; what a killed one leaves has a name that says what it is.
    work = out.with_name(f".{out.name}.preparing-{os.getpid()}")
    replaced = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        check()
        if out.exists():
            out.rename(replaced)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
