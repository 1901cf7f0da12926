"""A run as the chief leaves it, made without training: checkpoints and reports on demand."""

import dataclasses
import json

import numpy as np
import tensorflow as tf

from amstf.data import Samples
from launch.click_model import make_model
from launch.json_files import write_json
from launch.run_directory import RunConfig, RunDirectory

FLAGS = ("--model=embedding_mlp", "--hidden=8", "--batch_size=64", "--epochs=2")


class HandmadeRun:
    """What `launch.train` with `FLAGS` would write into a directory."""

    def __init__(self, path, dataset):
        self.directory = RunDirectory(path)
        self.samples = Samples.open(dataset)
        self.config = RunConfig(
            dataset=str(dataset),
            model="embedding_mlp",
            hidden=(8,),
            dropout=0.0,
            tower=(256, 64, 12),
            tower_dropout=0.0,
            aggregator="sum",
            missing="error",
            batch_size=64,
            epochs=2,
            learning_rate=0.001,
            seed=0,
            patience=0,
        )
        self.directory.path.mkdir(parents=True, exist_ok=True)

    @property
    def flags(self):
        return [f"--dataset={self.config.dataset}", f"--out={self.directory.path}", *FLAGS]

    def begin(self):
        self.directory.begin(self.config)
        self.samples.schema.save(self.directory.path)
        self._model = make_model(self.config, self.samples.schema, {})

    def save(self, step):
        """Writes a checkpoint with weights of its own, which is not listed yet."""
        rng = np.random.default_rng(step)
        self._model.set_weights([rng.normal(0, 0.3, w.shape) for w in self._model.get_weights()])
        path = self.path_of(step)
        checkpoint = tf.train.Checkpoint(model=self._model)
        checkpoint.save_counter.assign_add(1)  # Named, it exists and is written, as by `save`.
        checkpoint.write(path)
        return path

    def path_of(self, step):
        return str(self.directory.checkpoints / f"ckpt-{step}")

    def list_checkpoints(self, *steps):
        """What CheckpointManager does once a checkpoint is whole."""
        paths = [self.path_of(step) for step in steps]
        tf.compat.v1.train.update_checkpoint_state(
            str(self.directory.checkpoints), paths[-1], paths
        )

    def write_report(self, ended="finished", epochs=2, **more):
        config = dataclasses.replace(self.config, epochs=epochs)
        report = {
            "ended": ended,
            "config": json.loads(config.to_json()),
            "cluster": "2 workers, 2 servers",
            "versions": {"tensorflow": tf.__version__},
            "machine": {"system": "Linux", "cores": 2},
            "when": "2026-01-01 00:00:00 UTC",
            "steps": 104,
            "samples": 6656,
            "seconds": 52.0,
            "samples_per_second": 128.0,
            "validation": "evaluator",
            "best_validation": None,
            "last_validation": None,
            "images": {},
        }
        write_json(self.directory.report, {**report, **more})
