"""One side of benchmarks.deepctr: trains the models on arrays, with our code or with DeepCTR's.

    python -m benchmarks.deepctr_side ours JOB.json           with this repository
    DEEPCTR/bin/python -I benchmarks/deepctr_side.py deepctr JOB.json

Writes probabilities beside the job, says that it is ready, and then trains each model whose name
comes as a line for so many more steps and answers how long that took: whoever asks can let two
sides take turns. Answers are lines of JSON.

The second runs in an environment that has neither this repository nor its packages, so this file
imports nothing of it but in `_ours`. All that both do, batches, optimizer, epochs, timing, is here
once.
"""

import json
import pathlib
import sys
import time

import numpy as np


def _ours(job: dict) -> dict:
    """Makes our models as the same networks: numbers have no vectors."""
    import models
    from amstf.optimizers import Adam
    from amstf.schema import Field, Schema

    schema = Schema(
        (
            *(Field(name, "dense") for name in job["numbers"]),
            *(
                Field(name, "sparse", vocabulary_size=size - 1, embedding_width=job["width"])
                for name, size in job["values"].items()
            ),
            Field("click", "label"),
        )
    )
    layers = {"layers": job["cross_layers"]}

    def make(name: str):
        def embedding(num_sums: int) -> models.FieldEmbedding:
            return models.FieldEmbedding(schema, num_sums=num_sums, dense_vectors=False)

        kind, parts = {
            "deepfm": (models.DeepFm, {"id_embedding": embedding(1)}),
            "dcn": (models.Dcn, {"interaction": layers}),
            "dcn_v2": (models.DcnV2, {"interaction": layers}),
            "pnn": (models.Pnn, {"id_embedding": embedding(0)}),
            "fibinet": (models.FiBiNet, {"id_embedding": embedding(1)}),
        }[name]
        model = kind(schema, job["hidden"], activation="relu", **parts)
        return models.build(model, schema), Adam(job["learning_rate"])

    return {name: lambda name=name: make(name) for name in job["models"]}


def _deepctr(job: dict) -> dict:
    """Makes DeepCTR's models, with its own defaults but for the sizes of layers."""
    import tensorflow as tf
    from deepctr.feature_column import DenseFeat, SparseFeat
    from deepctr.models import DCN, PNN, DeepFM, FiBiNET

    columns = [SparseFeat(name, size, job["width"]) for name, size in job["values"].items()]
    columns += [DenseFeat(name, 1) for name in job["numbers"]]
    hidden = {"dnn_hidden_units": job["hidden"]}
    cross = {**hidden, "cross_num": job["cross_layers"]}
    makers = {
        "deepfm": lambda: DeepFM(columns, columns, **hidden),
        "dcn": lambda: DCN(columns, columns, **cross),
        "dcn_v2": lambda: DCN(columns, columns, cross_parameterization="matrix", **cross),
        "pnn": lambda: PNN(columns, **hidden),
        "fibinet": lambda: FiBiNET(columns, columns, **hidden),
    }
    optimizer = tf.keras.optimizers.Adam
    return {
        name: lambda name=name: (makers[name](), optimizer(job["learning_rate"]))
        for name in job["models"]
    }


def main(side: str, path: str) -> None:
    """Trains all models of a job, and further what is asked for, until nobody asks."""
    job = json.loads(pathlib.Path(path).read_text())
    arrays = np.load(job["arrays"])
    makers = {"ours": _ours, "deepctr": _deepctr}[side](job)
    import tensorflow as tf

    set_seed = tf.keras.utils.set_random_seed
    if side == "ours":
        import tf_keras

        set_seed = tf_keras.utils.set_random_seed
    names = [*job["numbers"], *job["values"]]
    inputs = {
        split: {name: arrays[f"{split}/{name}"] for name in names}
        for split in ("train", "validation", "test")
    }
    batch_size = job["batch_size"]
    train = tf.data.Dataset.from_tensor_slices((inputs["train"], arrays["train/click"]))
    # The same batches for all, from memory, and whole ones: one shape, one trace.
    timed = train.repeat().batch(batch_size).take(job["timed_steps"]).cache().prefetch(2)
    trained, probabilities = {}, {}
    for name, make in makers.items():
        set_seed(job["seed"])
        model, optimizer = make()
        model.compile(optimizer, "binary_crossentropy")
        shuffled = train.shuffle(len(arrays["train/click"]), seed=job["seed"])
        batches = shuffled.batch(batch_size).prefetch(2)
        for epoch in range(job["epochs"]):
            model.fit(batches, verbose=0)
            for split in ("validation", "test"):
                predicted = model.predict(inputs[split], batch_size=4096, verbose=0)
                probabilities[f"{name}/{epoch}/{split}"] = predicted[:, 0]
        model.fit(timed, verbose=0)
        trained[name] = model
    np.savez(f"{pathlib.Path(path).with_suffix('')}-{side}.npz", **probabilities)
    _answer(tensorflow=tf.__version__)
    for line in sys.stdin:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        trained[line.strip()].fit(timed, verbose=0)
        _answer(seconds=time.perf_counter() - begin, processor_s=time.process_time() - begin_cpu)


def _answer(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
