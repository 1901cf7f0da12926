"""amstf: click models that see images, with the images on the parameter servers (AMS).

Importing the package selects Keras 2 (`tf_keras`) for `tf.keras`: Keras 3 has no
parameter-server training. The public names below are loaded when they are first used, so that a
program that only starts processes or reads a manifest does not wait for TensorFlow.
"""

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _os.environ.setdefault("TF_USE_LEGACY_KERAS", "1") not in ("1", "true", "True"):
    raise ImportError(
        f"TF_USE_LEGACY_KERAS is {_os.environ['TF_USE_LEGACY_KERAS']!r}; amstf needs Keras 2, "
        "since Keras 3 cannot train on parameter servers: unset it, or set it to 1"
    )

if _TYPE_CHECKING:
    from amstf.config import AmsConfig as AmsConfig
    from amstf.data import Samples as Samples
    from amstf.data import SampleWriter as SampleWriter
    from amstf.dynamic import Admission as Admission
    from amstf.dynamic import IncrementalCheckpoints as IncrementalCheckpoints
    from amstf.dynamic import TableLimit as TableLimit
    from amstf.errors import AmstfError as AmstfError
    from amstf.layers import AmsEmbedding as AmsEmbedding
    from amstf.layers import DynamicEmbedding as DynamicEmbedding
    from amstf.layers import EvictRows as EvictRows
    from amstf.schema import Field as Field
    from amstf.schema import Schema as Schema
    from amstf.shared_batches import SharedBatches as SharedBatches
    from amstf.store import ImageStore as ImageStore
    from amstf.store import ImageStoreWriter as ImageStoreWriter
    from amstf.strategy import AdvancedModelServerStrategy as AdvancedModelServerStrategy

_MODULE_OF = {
    "Admission": "amstf.dynamic",
    "AdvancedModelServerStrategy": "amstf.strategy",
    "AmsConfig": "amstf.config",
    "AmsEmbedding": "amstf.layers",
    "AmstfError": "amstf.errors",
    "DynamicEmbedding": "amstf.layers",
    "EvictRows": "amstf.layers",
    "Field": "amstf.schema",
    "ImageStore": "amstf.store",
    "ImageStoreWriter": "amstf.store",
    "IncrementalCheckpoints": "amstf.dynamic",
    "SampleWriter": "amstf.data",
    "Samples": "amstf.data",
    "Schema": "amstf.schema",
    "SharedBatches": "amstf.shared_batches",
    "TableLimit": "amstf.dynamic",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'amstf' has no attribute {name!r}")
    return getattr(_importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
