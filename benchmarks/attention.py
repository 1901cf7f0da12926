"""Attention over behaviours, with and without making the pairs it scores: time and memory.

    python -m benchmarks.attention [--quick] [--keep]

One step forward and backward of `models.AttentivePooling` on [B, T, D] behaviours, compared:

  pairs     the textbook way: [e, q, e * q, e - q] is made, [B, T, 4 D], and multiplied
  product   the layer as it is: one product of [T, D] and [D, H] a sample

Both have the same weights and give the same result, which is checked. Memory is what the process
grew by at its peak, over what it held before the first step; each way is measured in a process of
its own.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks import harness
from launch import program
from models import AttentivePooling

_WAY = flags.DEFINE_string("way", None, "Used by the benchmark itself: measure the memory of one.")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        samples: Samples of a batch (B).
        lengths: Behaviours of a sample (T), each measured by itself.
        width: Floats of a behaviour (D).
        hidden: Units of the attention's hidden layer (H).
        repeats: Rounds of timing.
        seconds: Time for each length, at most.
    """

    samples: int = 1024
    lengths: tuple[int, ...] = (32, 128, 512)
    width: int = 12
    hidden: int = 32
    repeats: int = 30
    seconds: float = 20.0


QUICK = Config(samples=256, lengths=(32,), repeats=5, seconds=3.0)


class PairsPooling(AttentivePooling):
    """The same attention, written as its formula."""

    def weights_of(self, behaviours: tf.Tensor, mask: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
        """See `AttentivePooling`."""
        first, activation = self._mlp._steps
        query = tf.broadcast_to(query[:, None, :], tf.shape(behaviours))
        pairs = tf.concat([behaviours, query, behaviours * query, behaviours - query], axis=-1)
        hidden = activation(tf.tensordot(pairs, first.kernel, 1) + first.bias)
        return tf.where(mask, self._score(hidden)[:, :, 0], 0.0)

    def aggregate(self, behaviours: Any, mask: Any, query: Any, ad_ids: Any) -> tf.Tensor:
        """See `AttentivePooling`."""
        weights = self.weights_of(behaviours, mask, query)
        return tf.reduce_sum(weights[:, :, None] * behaviours, axis=1)


WAYS = {"pairs": PairsPooling, "product": AttentivePooling}


def make_step(config: Config, length: int, way: str) -> Callable[[], tuple[np.ndarray, ...]]:
    """Returns a function that makes one step and returns the result and a sum of the gradients."""
    keras.utils.set_random_seed(0)
    behaviours = tf.Variable(tf.random.normal([config.samples, length, config.width]))
    query = tf.Variable(tf.random.normal([config.samples, config.width]))
    lengths = tf.random.uniform([config.samples], 0, length + 1, tf.int32)
    mask = tf.sequence_mask(lengths, length)
    pooling = WAYS[way]((config.hidden,))
    AttentivePooling.weights_of(pooling, behaviours[:1, :1], mask[:1, :1], query[:1])  # Weights.

    @tf.function
    def step() -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            result = pooling(behaviours, mask, query)
            loss = tf.reduce_sum(tf.sin(result))
        gradients = tape.gradient(loss, [behaviours, query, *pooling.trainable_variables])
        return result, *(tf.reduce_sum(tf.abs(gradient)) for gradient in gradients)

    return lambda: tuple(value.numpy() for value in step())


def peak_growth(step: Callable[[], Any]) -> float:
    """Returns by how many MB the peak of this process's memory grows over two steps."""
    before = harness.peak_mb()
    for _ in range(2):
        step()
    return harness.peak_mb() - before


def _memory(config: Config, length: int, way: str) -> float:
    command = [sys.executable, "-m", "benchmarks.attention"]
    command += [f"--way={json.dumps([dataclasses.asdict(config), length, way])}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _check(config: Config, length: int, steps: dict[str, Callable[[], Any]]) -> None:
    for one, other in zip(*(step() for step in steps.values()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=f"T = {length}")


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    if _WAY.value:
        values, length, way = json.loads(_WAY.value)
        print(peak_growth(make_step(Config(**values), length, way)))
        return
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("attention", config)
    rows = []
    for length in config.lengths:
        steps = {way: make_step(config, length, way) for way in WAYS}
        _check(config, length, steps)
        timings = harness.measure_together(
            steps, repeats=config.repeats, warm_up=2, seconds=config.seconds
        )
        memory = {way: _memory(config, length, way) for way in WAYS}
        for way, timing in timings.items():
            report.results[f"{way}, T={length}"] = {**timing.as_json(), "peak_mb": memory[way]}
            rows.append([way, length, timing.median * 1e3, memory[way]])
        report.ratios[f"times_faster_at_{length}"] = (
            timings["pairs"].median / timings["product"].median
        )
        report.ratios[f"times_less_memory_at_{length}"] = memory["pairs"] / memory["product"]
    print(harness.table(["way", "T", "step ms", "peak MB"], rows))
    report.finish()


if __name__ == "__main__":
    program.run(main)
