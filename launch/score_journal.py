"""What a scoring keeps while it runs, so that a killed one goes on: no row is lost or doubled.

Beside the output lie two hidden files: the scores so far as plain float32, only ever appended to,
and a journal that says how many of them count and where in which sample file they end. The journal
is replaced in one step after the scores have reached the disk, so a kill at any time leaves at most
some scores that it does not count; these are cut off. See docs/design/export.md.
"""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import time
import types
from collections.abc import Iterator, Sequence

import numpy as np

from amstf import files
from amstf.atomic_file import write_atomically
from amstf.errors import ConfigError

_SECONDS = 5.0  # Between two entries: what a kill costs, at most. An entry costs milliseconds.
_ROWS = 1 << 16  # Read back at a time.


@dataclasses.dataclass
class Position:
    """How far a scoring is.

    Attributes:
        file: Index of the sample file.
        records: Records of it that are scored (of a file of groups: groups).
        bytes: Bytes of the file that these are.
        rows: Scores in all.
    """

    file: int = 0
    records: int = 0
    bytes: int = 0
    rows: int = 0


class ScoreJournal:
    """The scores of an unfinished scoring, and how far it is.

    Args:
        out: The file that will be made at the end.
        columns: Names of the scores of a sample (L).
        inputs: What is scored, by what: if it changed, an earlier scoring is started over.

    Raises:
        ConfigError: If another process is making `out`.

    Example:
        >>> import tempfile
        >>> out = pathlib.Path(tempfile.mkdtemp(), "scores.csv")
        >>> with ScoreJournal(out, ["click_probability"], "inputs") as journal:
        ...     journal.add(np.array([[0.5]], np.float32), Position(rows=1, records=1, bytes=30))
        >>> with ScoreJournal(out, ["click_probability"], "inputs") as journal:
        ...     journal.position.rows, [part.tolist() for part in journal.scores()]
        (1, [[[0.5]]])
    """

    def __init__(self, out: pathlib.Path, columns: Sequence[str], inputs: str) -> None:
        self._scores_path = out.with_name(f".{out.name}.scores")
        self._journal_path = out.with_name(f".{out.name}.journal")
        self._width = len(columns)
        self._head = {"version": 1, "columns": list(columns), "inputs": inputs}
        self.position = Position()
        self._file = open(self._scores_path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                f"another process is writing --out={out}; wait for it or name another file"
            ) from None
        self._resume()
        self._kept = time.monotonic()

    def __enter__(self) -> ScoreJournal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if not self._file.closed:
            self.keep()
            self._file.close()

    def _resume(self) -> None:
        # A kill inside of `write_atomically` leaves its file; nobody else writes under the lock.
        for leftover in self._journal_path.parent.glob(
            f".{glob.escape(self._journal_path.name)}.*"
        ):
            leftover.unlink(missing_ok=True)
        try:
            content = files.parse_json(files.read_text(self._journal_path))
            position = Position(**content.pop("position"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            content, position = None, Position()
        end = position.rows * self._width * 4
        if content == self._head and os.fstat(self._file.fileno()).st_size >= end:
            self.position = position
        else:
            end = 0
        self._file.truncate(end)
        self._file.seek(end)

    def add(self, scores: np.ndarray, position: Position) -> None:
        """Adds the scores [B, L] of a batch; `position` is where it ends."""
        self._file.write(np.ascontiguousarray(scores, np.float32).tobytes())
        self.position = position
        if time.monotonic() - self._kept > _SECONDS:
            self.keep()

    def keep(self) -> None:
        """Makes what was added survive a kill, and a loss of power."""
        self._file.flush()
        os.fsync(self._file.fileno())
        content = {**self._head, "position": dataclasses.asdict(self.position)}
        write_atomically(self._journal_path, json.dumps(content))
        self._kept = time.monotonic()

    def scores(self) -> Iterator[np.ndarray]:
        """Yields all scores in order, [k, L] float32."""
        self._file.flush()
        with open(self._scores_path, "rb") as file:
            while block := file.read(_ROWS * self._width * 4):
                yield np.frombuffer(block, np.float32).reshape(-1, self._width)

    def remove(self) -> None:
        """Removes the files, when the output is complete or can never be."""
        self._journal_path.unlink(missing_ok=True)
        self._scores_path.unlink(missing_ok=True)
        self._file.close()


def fingerprint(export: str, paths: Sequence[str]) -> str:
    """Returns a text that is another one if the export or a sample file has changed.

    Args:
        export: Directory of the SavedModel.
        paths: The sample files, in order; of remote ones only the size is looked at.
    """
    root = pathlib.Path(export)
    inside = [str(path) for path in sorted(root.rglob("*")) if path.is_file()]
    digest = hashlib.sha256()
    for path in [*inside, *paths]:
        changed = "" if files.is_remote(path) else os.stat(path).st_mtime_ns
        name = path if files.is_remote(path) else os.path.abspath(path)
        digest.update(f"{name}\0{files.size(path)}\0{changed}\0".encode())
    return digest.hexdigest()
