"""Makes a store the image store of a data set."""

from __future__ import annotations

import os
import pathlib

from amstf.data import set_image_store


def use_in_dataset(store: str | os.PathLike[str], dataset: str, name: str) -> None:
    """Records a store in a data set's manifest.

    A store in the data set's directory moves with it, so its path counts from there.

    Args:
        store: The store's file.
        dataset: The data set directory.
        name: Name of the store, as image fields of the schema use it.
    """
    path, directory = pathlib.Path(store).absolute(), pathlib.Path(dataset).absolute()
    if path.is_relative_to(directory):
        path = path.relative_to(directory)
    set_image_store(dataset, path, name)
