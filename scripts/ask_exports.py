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
            rng = np.random.default_rng(len(asked))
            if list(specs) == ["examples"]:
                inputs = {"examples": _examples(rng, export)}
            else:
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


def _examples(rng, export):  # type: ignore[no-untyped-def]
    """Returns serialized samples of an export's schema, without embeddings of images."""
    import tensorflow as tf

    from amstf.data.encoding import encoder
    from amstf.export import read_description
    from amstf.schema import DENSE, IMAGE, INPUT_KINDS, WEIGHTED_SPARSE, Schema

    schema = Schema.from_json(json.dumps(read_description(export)["schema"]))
    encoders = {f: encoder(f) for f in schema.stored if f.kind in (*INPUT_KINDS, "group")}
    rows = []
    for _ in range(_ROWS):
        example, sample = tf.train.Example(), {}
        for field in encoders:
            length = rng.integers(_LENGTH) if field.is_list else field.length
            ids = rng.integers(_IDS, size=length).tolist()
            ids = [f"w{k}" for k in ids] if field.dtype == "string" else ids
            values = rng.normal(size=length).tolist() if field.kind == DENSE else ids
            sample[field.name] = values if field.is_list or field.kind == DENSE else values[0]
            if field.kind == WEIGHTED_SPARSE:
                sample[field.weight_name] = rng.uniform(size=length).tolist()
            if field.kind == IMAGE and not field.is_list and rng.random() < 0.2:
                del sample[field.name]
        for encode in encoders.values():
            encode(sample, example.features.feature)
        rows.append(example.SerializeToString())
    return np.array(rows, object)


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
