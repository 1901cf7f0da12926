"""Chief of the test of placements: the same step on a cluster and in this process.

Prints one line of JSON: the greatest differences between the placements, what the servers counted,
and which tensors of a worker's training function are not on a parameter server.
"""

import json
import sys

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.config import SERVERS, WORKERS, AmsConfig
from amstf.layers import AmsEmbedding
from amstf.store import ImageStore
from amstf.strategy import AdvancedModelServerStrategy
from launch import native_logs

WIDTH = 4
HIDDEN = (
    29  # Together with F no other tensor has this shape: it is E's first weight, or its gradient.
)


def make_model(store: ImageStore, missing: str = "zeros") -> tuple[AmsEmbedding, keras.Model]:
    tower = keras.Sequential(
        [
            keras.layers.Dense(HIDDEN, activation="tanh"),
            keras.layers.PReLU(),
            keras.layers.Dense(WIDTH),
        ]
    )
    layer = AmsEmbedding(store, tower, missing=missing)
    ad = keras.Input([], dtype=tf.int64)
    behaviours = keras.Input([None], dtype=tf.int64)
    joined = tf.concat([ad[:, tf.newaxis], behaviours], 1)
    embedded = layer(joined)
    click = keras.layers.Dense(1, activation="sigmoid")(tf.reduce_sum(embedded, 1))
    return layer, keras.Model([ad, behaviours], click)


def step(model: keras.Model, ad: tf.Tensor, behaviours: tf.Tensor, labels: tf.Tensor) -> list:
    with tf.GradientTape() as tape:
        predictions = model([ad, behaviours])
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, predictions))
    return [predictions, loss, *tape.gradient(loss, model.trainable_variables)]


def in_parts(values: list, variables: list) -> list:
    """Cuts values as the variables are cut that are split over the servers."""
    parts, left = [], [np.asarray(value) for value in values]
    for variable in variables:
        rows = variable.shape[0]
        parts.append(left[0][:rows])
        left[0] = left[0][rows:]
        if not len(left[0]):
            del left[0]
    assert not left
    return parts


def run_on(strategy, model, batches: list) -> list:
    """Each batch several times, so that each worker is likely to see it."""
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    run = tf.function(lambda *batch: step(model, *batch), reduce_retracing=True)
    scheduled = [
        [coordinator.schedule(run, args=tuple(map(tf.constant, batch))) for _ in range(3)]
        for batch in batches
    ]
    coordinator.join()
    return [[value.fetch() for value in values] for values in scheduled]


def training_graph(strategy, model) -> tf.Graph:
    """What a worker runs in one step of `fit`: forward, backward, optimizer."""
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    def train(*batch: tf.Tensor) -> None:
        gradients = step(model, *batch)[2:]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    signature = [
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, None], tf.int64),
        tf.TensorSpec([None, 1], tf.float32),
    ]
    function = tf.function(lambda *batch: strategy.run(train, args=batch), signature)
    with strategy.scope():
        return function.get_concrete_function().graph


def operations(graph: tf.Graph, device: str = "") -> list[tuple[tf.Operation, str]]:
    """All operations with their devices, those of functions inside as well."""
    found = []
    for operation in graph.get_operations():
        used = [o for o in operation.outputs if o.consumers() or any(o is x for x in graph.outputs)]
        if not used and not operation.op_def.is_stateful:
            continue  # Left out before the function runs, e.g. the zeros of a gradient unasked for.
        here = operation.device or device
        found.append((operation, here))
        for attribute in operation.node_def.attr.values():
            for function in (attribute.func, *attribute.list.func):
                if function.name:
                    found += operations(graph._get_function(function.name).graph, here)
    return found


def inspect(graph: tf.Graph, features: int) -> dict:
    """Where raw features [n, F] and tensors of the shape of E's first weight are touched."""
    all_operations = operations(graph)
    device_of = {id(operation): device for operation, device in all_operations}
    report = {"raw_on_servers": [], "raw_elsewhere": [], "weight_elsewhere": [], "sums": []}
    for operation, device in all_operations:
        # An op that takes a variable runs where the variable is, also if no device is written down.
        on_server = device.startswith("/job:ps/") or operation.type == "ReadVariableOp"
        touched = [*operation.inputs, *operation.outputs]
        shapes = [tensor.shape.as_list() if tensor.shape.rank else [] for tensor in touched]
        name = f"{operation.type} {operation.name} on {device or 'the worker'}"
        if [features, HIDDEN] in shapes:
            if not on_server:
                report["weight_elsewhere"].append(name)
            if operation.type == "AmsSumPresent":
                report["sums"].append(device)
        if any(len(shape) == 2 and shape[1] == features for shape in shapes):
            report["raw_on_servers" if on_server else "raw_elsewhere"].append(name)
        for tensor in operation.inputs:
            is_raw = tensor.shape.rank == 2 and tensor.shape[1] == features
            if is_raw and device_of[id(tensor.op)] != device:
                report["raw_elsewhere"].append(f"{tensor.op.name} -> {name}")
    return report


def main(store_path: str) -> None:
    store = ImageStore.open(store_path)
    rng = np.random.default_rng(0)
    batches = []
    for size, length in ((7, 3), (1, 0), (64, 9)):
        ids = rng.choice(np.append(store.ids[:40], [-1, 999_983]), (size, length + 1))
        batches.append((ids[:, 0], ids[:, 1:], rng.integers(0, 2, (size, 1)).astype("f4")))

    wanted_by_policy = {}
    for missing in ("zeros", "learn"):
        _, local = make_model(store, missing)
        weights = [rng.normal(0, 0.3, v.shape).astype("f4") for v in local.variables]
        local.set_weights(weights)
        expected = [step(local, *map(tf.constant, batch)) for batch in batches]
        wanted_by_policy[missing] = weights, expected

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    report = {}
    halves = tf.distribute.experimental.partitioners.FixedShardsPartitioner(2)
    for name, missing, config, partitioner in (
        ("servers", "zeros", AmsConfig(placement=SERVERS), None),
        ("workers", "zeros", AmsConfig(placement=WORKERS), None),
        ("server 1", "zeros", AmsConfig(image_servers=(1,)), None),
        # The weights of E themselves are split over the servers.
        ("split", "zeros", AmsConfig(), halves),
        ("learn", "learn", AmsConfig(), None),
        ("workers, learn", "learn", AmsConfig(placement=WORKERS), None),
    ):
        weights, expected = wanted_by_policy[missing]
        with native_logs.quieted():
            strategy = AdvancedModelServerStrategy(resolver, config, partitioner)
        before = strategy.ams.counters(store)
        with strategy.scope():
            layer, model = make_model(store, missing)
            model.set_weights(in_parts(weights, model.variables))
        worst = 0.0
        for wanted, values in zip(expected, run_on(strategy, model, batches), strict=True):
            for value in values:
                wanted_parts = wanted[:2] + in_parts(wanted[2:], model.trainable_variables)
                for one, other in zip(wanted_parts, value, strict=True):
                    one, other = tf.convert_to_tensor(one), tf.convert_to_tensor(other)
                    worst = max(worst, float(tf.reduce_max(tf.abs(one - other))))
        counters = strategy.ams.counters(store)
        report[name] = {
            "placement": type(layer._placement).__name__,
            "worst": worst,
            "images": [server["images"] for server in counters],
            "counted": [
                {counter: server[counter] - was[counter] for counter in server}
                for server, was in zip(counters, before, strict=True)
            ],
            "layer": layer.counters(),
            "graph": inspect(training_graph(strategy, model), store.width),
        }
    report["asked"] = sum(len(set(i[i >= 0])) for i in (np.append(b[0], b[1]) for b in batches)) * 3
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
