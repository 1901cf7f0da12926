"""What a server of images does with its time: E and the lookup against what the machine can do.

    python -m benchmarks.server [--quick] [--keep]

One server, asked by workers whose click model is nothing but the images' embeddings, so that the
server is what they wait for. TensorFlow's profiler records every op that the server runs.

  gemm_fraction       the matrix products of E's forward and backward alone, as a program of nothing
                      else in the same server, over the server's time in E (as far as an op ran)
  lookup_over_memcpy  copying as many bytes into memory that is there already, on one thread (numpy,
                      in another process, while the server is idle), over the time of the lookup
  overhead_fraction   the share of the time on the clock in which the server is neither in E nor
                      in the lookup: merging, updating E, copies, and waiting for workers and wire

The three are taken in turn, several times. An entry per case stands under `cases`; those at the
top are of the largest step, overhead_fraction the worst of its merge policies.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

import models
from amstf.layers import AmsEmbedding
from amstf.optimizers import Adam
from benchmarks import chief, click_shape, harness, op_trace
from benchmarks.click_shape import ClickShape
from benchmarks.op_trace import OpEvent
from launch import native_logs, program

_TRANSFERS = ("_Send", "_Recv", "_HostSend", "_HostRecv")
_TOWER_LAYER = re.compile(r"image_tower(?:_\d+)?/(\w+)/")
_NOT_TOWER = re.compile("Send|Recv|ReadVariableOp|Assign|Apply")

_SHAPE = ClickShape()


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Store and E.
        images: Distinct images of a step (U); the paper's server has 16,000 (320,000 on 20).
        merges: Workers and merge policy of further cases, at the largest U.
        rounds: How often everything is taken in turn.
        seconds: Length of one recording.
    """

    shape: ClickShape = _SHAPE
    images: tuple[int, ...] = (1_000, 4_000, 16_000)
    merges: tuple[tuple[int, str], ...] = ((2, "async"), (2, "sync"))
    rounds: int = 7
    seconds: float = 3.0


QUICK = Config(_SHAPE.quick(), images=(1_000, 4_000), merges=((2, "async"),), rounds=2, seconds=1.0)


@keras.utils.register_keras_serializable(package="benchmarks")
class Asker(keras.Model):
    """A worker model that only asks: what it computes is the embeddings themselves."""

    def __init__(self, images: AmsEmbedding, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = images

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps ids [U] to [U, D]."""
        return self.images(ids, training=training)


def is_lookup(event: OpEvent) -> bool:
    """Whether the op reads raw features."""
    return event.type == "AmsImageLookup"


def is_product(event: OpEvent) -> bool:
    """Whether the op is a matrix product."""
    return "MatMul" in event.type


def is_tower(event: OpEvent) -> bool:
    """Whether the op is E's, forward or backward."""
    return bool(_TOWER_LAYER.search(event.name)) and not _NOT_TOWER.search(event.type)


PARTS: dict[str, Callable[[OpEvent], bool]] = {
    "E: products": lambda event: is_tower(event) and is_product(event),
    "E: the rest": is_tower,
    "lookup": is_lookup,
    "merging": lambda event: bool(re.match("Ams(?!ImageStore)", event.type)),
    "updates": lambda event: bool(re.search("Apply|Assign", event.type)),
    "transfers": lambda event: event.type in _TRANSFERS,
    "other ops": lambda event: True,
}
"""An op belongs to the first part that takes it."""
WORK = ("E: products", "E: the rest", "lookup")
RATIOS = ("gemm_fraction", "lookup_over_memcpy", "overhead_fraction")


def bare_products(images: int, shape: ClickShape) -> Callable[[], Any]:
    """Makes a function that runs on server 0 the matrix products of one step of E, and no more.

    As a chain, as in E: no product of it waits for less than the one before.
    """
    widths = (shape.image_width, *shape.tower)
    with tf.device("/job:ps/replica:0/task:0/device:CPU:0"):

        def values(*sizes: int) -> tf.Variable:
            return tf.Variable(tf.random.stateless_normal(sizes, sizes))

        kernels = [values(a, b) for a, b in itertools.pairwise(widths)]
        outputs = [values(images, width) for width in widths]

        @tf.function
        def products() -> list[tf.Tensor]:
            results: list[tf.Tensor] = []

            def multiply(a: tf.Variable, b: tf.Variable, **transposed: bool) -> None:
                with tf.control_dependencies(results[-1:]):
                    results.append(tf.matmul(a, b, **transposed))

            with tf.device("/job:ps/replica:0/task:0/device:CPU:0"):
                for layer, kernel in enumerate(kernels):
                    multiply(outputs[layer], kernel)
                for layer, kernel in reversed(list(enumerate(kernels))):
                    multiply(outputs[layer], outputs[layer + 1], transpose_a=True)
                    if layer:
                        multiply(outputs[layer + 1], kernel, transpose_b=True)
                # One number of each, or the products were left out as of no use.
                return [result[0, 0] for result in results]

    return lambda: [number.numpy() for number in products()]


def batches(store: amstf.ImageStore, images: int, width: int) -> tf.data.Dataset:
    """Random distinct ids [U] and targets [U, D], for ever."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(store.ids)[:images] for _ in range(4)])
    targets = rng.normal(size=(4, images, width)).astype(np.float32)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return tf.data.Dataset.from_tensor_slices((ids, targets)).repeat().with_options(options)


def work(job: dict[str, Any]) -> list[dict[str, Any]]:
    """As the chief: takes steps, bare products and memcpy in turn."""
    with native_logs.filtered():
        return _work(job)


def _work(job: dict[str, Any]) -> list[dict[str, Any]]:
    config = QUICK if harness.FLAGS.quick else Config()
    images, num_workers, shape = job["images"], job["workers"], config.shape
    strategy = chief.connect(amstf.AmsConfig(merge=job["merge"]))
    store = click_shape.prepare(shape).store
    with strategy.scope():
        model = Asker(AmsEmbedding(store, models.image_tower(shape.tower)))
        model.compile(Adam(0.001), "mse")
    data = batches(store, images, shape.embedding_width)

    def fit(steps: int) -> None:
        # A number that the workers can share: in a synchronous round all must take part.
        model.fit(data, steps_per_epoch=-(-steps // num_workers) * num_workers, verbose=0)

    fit(4 * num_workers)
    start = time.perf_counter()
    fit(4 * num_workers)
    step_seconds = (time.perf_counter() - start) / (4 * num_workers)
    products = bare_products(images, shape)
    products()
    rounds = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def record(seconds: float) -> concurrent.futures.Future[list[OpEvent]]:
            return pool.submit(op_trace.record, op_trace.server_address(0), seconds)

        def bare(seconds: float) -> dict[str, float]:
            recorded = record(seconds)
            while not recorded.done():
                products()
            return _bare(recorded.result())

        def step(seconds: float) -> dict[str, Any]:
            recorded = record(seconds)
            fit(round(seconds / step_seconds) + 1)
            return _step(recorded.result())

        for number in range(config.rounds):
            one = {**_long_enough(bare, config), **_copies(images, shape.image_width)}
            one.update(_long_enough(step, config))
            rounds.append(one)
            print(f"  round {number + 1}: step {1e3 * one['step_s']:.1f} ms", flush=True)
    return rounds


def _long_enough(measure: Callable[[float], dict[str, Any]], config: Config) -> dict[str, Any]:
    """Measures for longer where a busy machine gave too little in the time that should do."""
    seconds = config.seconds
    while True:
        try:
            return measure(seconds)
        except op_trace.TooShortError:
            seconds *= 2
            if seconds > 16 * config.seconds:
                raise


def _bare(events: Sequence[OpEvent]) -> dict[str, float]:
    """Seconds of one run of the bare products."""
    products = [event for event in events if is_product(event)]
    if not products:
        raise op_trace.TooShortError("the recording holds no product")
    first = products[0].name
    inside, runs, _ = op_trace.whole_steps(products, lambda event: event.name == first)
    return {"bare_products_s": op_trace.shares(inside, {"": is_product})[""] / runs}


def _step(events: Sequence[OpEvent]) -> dict[str, Any]:
    """Seconds of one step on the clock, of its parts, and of the ops of E."""
    inside, steps, elapsed = op_trace.whole_steps(events, is_lookup)
    parts = {part: total / steps for part, total in op_trace.shares(inside, PARTS).items()}
    parts["no op"] = elapsed / steps - sum(parts.values())
    ops: dict[str, float] = {}
    for event in filter(is_tower, inside):
        kind = _kind(event)
        ops[kind] = ops.get(kind, 0.0) + (event.end - event.start) / steps
    return {"step_s": elapsed / steps, "steps": steps, "parts_s": parts, "tower_ops_s": ops}


def _kind(event: OpEvent) -> str:
    """Which of E's layers an op belongs to, and its direction."""
    direction = "backward" if "gradient_tape" in event.name else "forward"
    layer = _TOWER_LAYER.findall(event.name)[-1]
    what = "product" if is_product(event) else event.type
    if layer.startswith("p_re_lu"):
        what = "PReLU"
    return f"{layer} {direction}: {what}"


def _copies(images: int, width: int) -> dict[str, float]:
    """Seconds to copy as many bytes as a lookup returns, by one thread and by two."""
    source = np.ones((images, width), np.float32)
    target = np.empty_like(source)
    halves = [slice(None, images // 2), slice(images // 2, None)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        timings = harness.measure_together(
            {
                "memcpy_s": lambda: np.copyto(target, source),
                "memcpy_two_threads_s": lambda: list(
                    pool.map(lambda half: np.copyto(target[half], source[half]), halves)
                ),
            },
            repeats=7,
            warm_up=2,
        )
    return {name: timing.median for name, timing in timings.items()}


def ratios(one: dict[str, Any]) -> dict[str, float]:
    """The three ratios of one round."""
    parts = one["parts_s"]
    tower = parts["E: products"] + parts["E: the rest"]
    return {
        "gemm_fraction": one["bare_products_s"] / tower,
        "lookup_over_memcpy": one["memcpy_s"] / parts["lookup"],
        "overhead_fraction": 1 - sum(parts[part] for part in WORK) / one["step_s"],
    }


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and range of each ratio over rounds, and the medians of everything else."""
    found: dict[str, Any] = {}
    for name in RATIOS:
        values = [ratios(one)[name] for one in rounds]
        found[name] = round(statistics.median(values), 3)
        found[f"{name}_range"] = [round(min(values), 3), round(max(values), 3)]
    for name in ("step_s", "bare_products_s", "memcpy_s", "memcpy_two_threads_s", "steps"):
        found[name] = statistics.median(one[name] for one in rounds)
    for name in ("parts_s", "tower_ops_s"):
        keys = dict.fromkeys(key for one in rounds for key in one[name])
        found[name] = {
            key: statistics.median(one[name].get(key, 0.0) for one in rounds) for key in keys
        }
    return found


def main(arguments: list[str]) -> None:
    """Runs all cases and prints three tables."""
    del arguments
    if chief.was_given_a_job():
        return chief.do(work)
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("server", config)
    click_shape.prepare(config.shape)
    cases: dict[str, dict[str, Any]] = {}
    wanted = [(1, "none", images) for images in config.images]
    wanted += [(workers, merge, config.images[-1]) for workers, merge in config.merges]
    for workers, merge, images in wanted:
        name = f"W={workers} {merge}, U={images:,}"
        print(name, flush=True)
        job = {"workers": workers, "merge": merge, "images": images}
        cases[name] = summary(chief.run("benchmarks.server", workers, 1, job))
    largest = f"W=1 none, U={config.images[-1]:,}"
    _print_tables(cases, largest)
    report.ratios = {name: cases[largest][name] for name in ("gemm_fraction", "lookup_over_memcpy")}
    report.ratios["overhead_fraction"] = max(
        case["overhead_fraction"]
        for name, case in cases.items()
        if name.endswith(f"U={config.images[-1]:,}")
    )
    report.ratios["cases"] = {
        name: {ratio: case[ratio] for ratio in RATIOS} for name, case in cases.items()
    }
    report.results = cases
    report.finish()
    return None


def _print_tables(cases: dict[str, dict[str, Any]], largest: str) -> None:
    rows = [
        [name, *(f"{case[n]:.2f} ({case[n + '_range'][0]:.2f}-{case[n + '_range'][1]:.2f})"
                 for n in RATIOS)]
        for name, case in cases.items()
    ]  # fmt: skip
    print("\n" + harness.table(["one server: median (range)", *RATIOS], rows))
    parts = list(cases[largest]["parts_s"])
    rows = [
        [name, 1e3 * case["step_s"], *(1e3 * case["parts_s"][part] for part in parts)]
        for name, case in cases.items()
    ]
    print("\n" + harness.table(["ms a request", "step", *parts], rows))
    ops = sorted(cases[largest]["tower_ops_s"].items(), key=lambda item: -item[1])
    tower = sum(seconds for _, seconds in ops)
    rows = [[op, 1e3 * seconds, 100 * seconds / tower] for op, seconds in ops[:12]]
    print("\n" + harness.table([f"ops of E, {largest}", "ms", "%"], rows) + "\n")


if __name__ == "__main__":
    program.run(main)
