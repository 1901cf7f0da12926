"""A small synthetic data set, made once for the tests of programs."""

import pathlib

import pytest

from launch.datasets import synthetic


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data") / "small"
    directory.mkdir()
    config = synthetic.SyntheticConfig(
        users=120, items=150, impressions=4_000, image_width=24, behaviours=5, seed=3
    )
    synthetic.prepare(config, directory, num_shards=4, image_dtype="float16")
    return directory
