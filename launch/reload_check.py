"""Scores samples with a SavedModel as a stranger would: TensorFlow, numpy, nothing of this project.

    python -I launch/reload_check.py QUESTIONS ANSWERS

A script and not a module, so that no package of this project is on its path. QUESTIONS is a pickle
of [(export, signature, {input: array})], ANSWERS becomes one of the list of the first outputs.
"""

import os
import pickle
import sys


def main(questions: str, answers: str) -> None:
    """Asks each question and writes the answers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    loaded = {}
    results = []
    with open(questions, "rb") as file:
        for export, name, inputs in pickle.load(file):
            if export not in loaded:
                loaded[export] = tf.saved_model.load(export)
            outputs = loaded[export].signatures[name](
                **{key: tf.constant(v) for key, v in inputs.items()}
            )
            results.append(next(iter(outputs.values())).numpy())
    ours = sorted({name.split(".")[0] for name in sys.modules} & {"amstf", "models", "launch"})
    if ours:
        sys.exit(f"loaded {', '.join(ours)}; so the answers prove nothing")
    with open(answers, "wb") as file:
        pickle.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
