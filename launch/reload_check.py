"""Scores samples with a SavedModel as a stranger would: TensorFlow, numpy, nothing of this project.

    python -I launch/reload_check.py QUESTIONS ANSWERS

A script and not a module, so that no package of this project is on its path. QUESTIONS is JSON,
[[export, signature, {input: [dtype, serialized tensor in base64]}]]; ANSWERS becomes an .npz file
with the outputs of each, side by side in the order of their names. No pickle: that would run
whatever is in the file.
"""

import base64
import json
import os
import sys


def main(questions: str, answers: str) -> None:
    """Asks each question and writes the answers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    loaded = {}
    results = []
    with open(questions, encoding="ascii") as file:
        asked = json.load(file)
    for export, name, inputs in asked:
        if export not in loaded:
            loaded[export] = tf.saved_model.load(export)
        tensors = {
            key: tf.io.parse_tensor(base64.b64decode(content), dtype)
            for key, (dtype, content) in inputs.items()
        }
        outputs = loaded[export].signatures[name](**tensors)
        columns = [outputs[name].numpy() for name in sorted(outputs)]
        results.append(np.concatenate(columns, axis=-1))
    ours = sorted({name.split(".")[0] for name in sys.modules} & {"amstf", "models", "launch"})
    if ours:
        sys.exit(f"loaded {', '.join(ours)}; so the answers prove nothing")
    with open(answers, "wb") as file:
        np.savez(file, *results)


if __name__ == "__main__":
    main(*sys.argv[1:])
