"""Scoring TFRecord files with nothing but a SavedModel."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from amstf import files
from amstf.data import impressions_of, is_group
from amstf.errors import ExportError, SampleError
from amstf.export import DESCRIPTION_FILE, read_description

# Exports of earlier versions have the first, and give it under the name of the second tensors.
SIGNATURES = ("serve_examples", "serving_default")
OUTPUT = "click_probability"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

# A TFRecord frames its data with a length, and a CRC of each.
_FRAME_BYTES = 16
_BINS = 100_000

Scorer = Callable[[tf.Tensor], tf.Tensor]


def load_scorer(export: str | os.PathLike[str]) -> tuple[Scorer, list[str]]:
    """Loads the signature of an export that scores serialized samples.

    Args:
        export: Directory of the SavedModel.

    Returns:
        Function from serialized samples [B] to probabilities [B, L], and their L names; the first
        is that of a click, those of other labels follow if the model predicts several.

    Raises:
        ExportError: If there is no SavedModel, or one without this signature.
    """
    if not os.path.exists(os.path.join(export, "saved_model.pb")):
        raise ExportError(
            f"{export} holds no SavedModel (saved_model.pb); python -m launch.export makes one"
        )
    try:
        model = tf.saved_model.load(str(export))
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        first = str(error).strip().split("\n")[0]
        raise ExportError(f"{export} cannot be loaded: {first}; export the model again") from error
    name = next((name for name in SIGNATURES if name in model.signatures), None)
    if name is None:
        known = ", ".join(model.signatures) or "none"
        raise ExportError(
            f"{export} has no signature {SIGNATURES[-1]!r}; its signatures are: {known}. "
            "python -m launch.export makes an export that has it"
        )
    _refuse_table_beside(export)
    signature = model.signatures[name]
    inputs = list(signature.structured_input_signature[1].values())
    if [spec.dtype for spec in inputs] != [tf.string] or OUTPUT not in signature.structured_outputs:
        raise ExportError(
            f"{export}: signature {name!r} takes {', '.join(s.name for s in inputs)} and "
            f"gives {', '.join(signature.structured_outputs)}; wanted one string input and {OUTPUT}"
        )
    (examples_name,) = (spec.name for spec in inputs)
    columns = [OUTPUT, *sorted(set(signature.structured_outputs) - {OUTPUT})]

    def score(examples: tf.Tensor) -> tf.Tensor:
        # The model is named here because a signature does not keep its variables alive.
        outputs = model.signatures[name](**{examples_name: examples})
        return tf.concat([outputs[column] for column in columns], axis=-1)

    return score, columns


def _refuse_table_beside(export: str | os.PathLike[str]) -> None:
    if not os.path.exists(os.path.join(export, DESCRIPTION_FILE)):
        return  # Of other making: whatever it takes.
    for store, about in read_description(export)["images"].items():
        if "file" in about:
            raise ExportError(
                f"{export} has its image embeddings beside it ({about['file']}), so requests must "
                f"bring those of {store!r} along, which samples do not; score with an export of "
                "--table=inside"
            )


def score_file(
    scorer: Scorer, path: str, batch_size: int, records: int = 0, read: int = 0
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Scores the samples of a TFRecord file, in order; of a file of groups those of each group.

    Args:
        scorer: The function that `load_scorer` returned.
        path: The file.
        batch_size: Records to score at a time.
        records: Records to pass over, which are scored already.
        read: The bytes of the file that these are.

    Yields:
        Probabilities [B, L] float32, and the records and bytes of the file that are done.

    Raises:
        SampleError: If the file is no TFRecord, is damaged or cut off, or holds other samples than
            the export takes.
    """
    batches = iter(tf.data.TFRecordDataset(path).skip(records).batch(batch_size).prefetch(2))
    grouped = None
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.DataLossError as error:
            if not read:
                problem = "is no TFRecord file, or its first records are damaged"
            else:
                problem = f"is damaged, behind record {records - 1}"
            raise SampleError(f"{path} {problem}; copy or write it again") from error
        if batch is None:
            break
        if grouped is None:
            grouped = _is_group(batch[0].numpy())
        try:
            scores = _score_groups(scorer, batch, batch_size) if grouped else scorer(batch).numpy()
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            last = records + len(batch) - 1
            # TensorFlow puts the record itself into its message, which then may not be text.
            no_text = isinstance(error, UnicodeDecodeError)
            why = "Could not parse example input" if no_text else _readable(error.message)
            raise SampleError(
                f"{path}: one of the records {records} to {last} is no sample that the export "
                f"takes: {why}"
            ) from error
        except (DecodeError, ValueError) as error:
            raise SampleError(
                f"{path}: one of the groups behind group {records} is damaged: {error}"
            ) from error
        if not np.isfinite(scores).all():
            row, column = np.argwhere(~np.isfinite(scores))[0]
            raise ExportError(
                f"{path}: the export gives {scores[row, column]} for record {records + row}; its "
                "weights "
                "or the record hold values that are not finite: train or prepare again"
            )
        records += len(batch)
        read += sum(map(len, batch.numpy())) + _FRAME_BYTES * len(batch)
        yield scores, records, read
    # TensorFlow's reader takes a record that is cut off for the end of the file.
    size = files.size(path)
    if read != size:
        raise SampleError(
            f"{path} is cut off: {records} whole records are {read:,} of its {size:,} bytes; copy "
            "or write it again"
        )


def _is_group(record: bytes) -> bool:
    try:
        return is_group(record)
    except DecodeError:
        return False


def _score_groups(scorer: Scorer, groups: tf.Tensor, batch_size: int) -> np.ndarray:
    """Scores the samples of groups; an export takes each with its user's part."""
    samples = [sample for group in groups.numpy() for sample in impressions_of(group)]
    parts = [samples[k : k + batch_size] for k in range(0, len(samples), batch_size)]
    return np.concatenate([scorer(tf.constant(part)).numpy() for part in parts])


class ScoreTable:
    """Count, mean and quantiles of scores in [0, 1], in memory that does not grow.

    Example:
        >>> table = ScoreTable()
        >>> table.add(np.array([0.25, 0.75], np.float32))
        >>> table.count, table.mean, round(table.quantile(0.5), 3)
        (2, 0.5, 0.25)
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._bins = np.zeros(_BINS, np.int64)

    def add(self, scores: np.ndarray) -> None:
        """Adds scores [n]."""
        self.count += len(scores)
        self._sum += float(scores.sum(dtype=np.float64))
        bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
        self._bins += np.bincount(bins, minlength=_BINS)

    @property
    def mean(self) -> float:
        """Mean of all scores; NaN of none."""
        return self._sum / self.count if self.count else float("nan")

    def quantile(self, share: float) -> float:
        """Returns the smallest score that `share` of all do not exceed, to 1e-5."""
        if not self.count:
            return float("nan")
        wanted = max(1, int(np.ceil(share * self.count)))
        return (int(np.searchsorted(np.cumsum(self._bins), wanted)) + 0.5) / _BINS

    def __str__(self) -> str:
        if not self.count:
            return "  no samples"
        columns = [("samples", f"{self.count:,}"), ("mean", f"{self.mean:.4f}")]
        columns += [(f"{share:.0%}", f"{self.quantile(share):.4f}") for share in QUANTILES]
        widths = [max(map(len, column)) + 2 for column in columns]
        rows = zip(*columns, strict=True)
        return "\n".join("  " + "".join(map(str.rjust, row, widths)) for row in rows)


def _readable(message: str) -> str:
    """TensorFlow's message without the names of graph nodes."""
    message = re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", message)
    lines = [line.strip() for line in message.split("\n")]
    useful = [line for line in lines if re.search(r"[Ff]eature|[Pp]arse|Key|field", line)]
    return (useful or lines)[0][:300]
