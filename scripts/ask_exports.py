"""Makes random requests to exports, and compares the answers of two TensorFlows.

ask_exports.py questions FILE EXPORT [EXPORT ...]    writes requests for launch/reload_check.py
ask_exports.py compare FILE ANSWERS ANSWERS          compares what it answered
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

_ROWS = 64
_LENGTH = 5  # Of lists, and of every other size that a signature leaves open.
_IDS = 50
_LIMIT = 1e-5


def questions(path: str, exports: list[str]) -> None:
    """Writes a few random requests to every signature of every export."""
    import tensorflow as tf

    from launch.export_check import write_questions

    asked = []
    for export in exports:
        for name, signature in tf.saved_model.load(export).signatures.items():
            specs = signature.structured_input_signature[1]
            if list(specs) == ["examples"]:
                continue  # Its samples are bytes of the data set's; `predict` is the same model.
            rng = np.random.default_rng(len(asked))
            inputs = {key: _random(rng, spec) for key, spec in specs.items()}
            asked.append((str(pathlib.Path(export).absolute()), name, inputs))
    write_questions(pathlib.Path(path), asked)


def _random(rng, spec):  # type: ignore[no-untyped-def]
    first = _ROWS if spec.shape[0] is None else spec.shape[0]
    shape = [first, *(_LENGTH if size is None else size for size in spec.shape[1:])]
    if spec.dtype.is_floating:
        return rng.normal(size=shape).astype(spec.dtype.as_numpy_dtype)
    ids = rng.integers(-1, _IDS, size=shape)
    return np.char.add("w", ids.astype(str)).astype(object) if spec.dtype == "string" else ids


def compare(path: str, answers: list[str]) -> int:
    """Prints the greatest difference of each signature; returns 1 if one is too great."""
    from launch.export_check import read_answers

    asked = json.loads(pathlib.Path(path).read_text())
    first, second = (read_answers(pathlib.Path(each)) for each in answers)
    worst = 0.0
    for (export, name, _), a, b in zip(asked, first, second, strict=True):
        difference = float((np.abs(a - b) / np.maximum(1, np.abs(a))).max())
        difference = difference if difference == difference else np.inf
        worst = max(worst, difference)
        print(f"{export}  {name}: {a.shape[0]} rows, standard deviation {a.std():.1e}, greatest "
              f"difference {difference:.1e}")  # fmt: skip
    print("equal" if worst <= _LIMIT else f"DIFFERENT: more than {_LIMIT:.0e} apart")
    return int(worst > _LIMIT)


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[1] == "questions":
        questions(sys.argv[2], sys.argv[3:])
    elif len(sys.argv) == 5 and sys.argv[1] == "compare":
        sys.exit(compare(sys.argv[2], sys.argv[3:]))
    else:
        sys.exit(__doc__)
