"""amstf: click models that see images, with the images on the parameter servers (AMS).

Importing the package selects Keras 2 (`tf_keras`) for `tf.keras`: Keras 3 has no
parameter-server training.
"""

import os as _os

if _os.environ.setdefault("TF_USE_LEGACY_KERAS", "1") not in ("1", "true", "True"):
    raise ImportError(
        f"TF_USE_LEGACY_KERAS is {_os.environ['TF_USE_LEGACY_KERAS']!r}; amstf needs Keras 2, since "
        "Keras 3 cannot train on parameter servers: unset it, or set it to 1"
    )
