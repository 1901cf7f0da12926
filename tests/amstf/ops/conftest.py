import numpy as np
import pytest

from amstf.store import ImageStore, ImageStoreWriter


@pytest.fixture
def make_store(tmp_path):
    """Writes and opens a store of `count` images, ids not in order and with gaps."""

    def make(count=50, width=3, dtype="float32", num_files=1, name="images.h5", seed=0):
        rng = np.random.default_rng(seed)
        ids = rng.permutation(count * 5)[:count]
        with ImageStoreWriter(tmp_path / name, width, dtype, num_files) as writer:
            writer.write(ids, rng.normal(size=(count, width)).astype(dtype))
        return ImageStore.open(
            tmp_path / name if num_files == 1 else str(tmp_path / f"{name[:-3]}-*.h5")
        )

    return make
