import numpy as np
import pytest

from amstf.store import ImageStoreWriter


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def write(tmp_path, rng):
    """Writes a store and returns its path, its ids and its features, in the order written."""

    def write(count=40, width=3, name="images.h5", first_id=0, **options):
        ids = first_id + rng.permutation(count * 7)[:count]
        features = rng.normal(size=(count, width)).astype("f4")
        path = tmp_path / name
        with ImageStoreWriter(path, width, **options) as writer:
            writer.write(ids, features)
        return path, ids, features

    return write
