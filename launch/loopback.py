"""Keeps the processes of a local cluster on loopback, where TensorFlow would listen everywhere.

TensorFlow's gRPC server takes only the port from the cluster's addresses and binds 0.0.0.0. It asks
nobody who he is and runs every graph that it is sent. See docs/design/security.md.
"""

import pathlib
import tempfile

from amstf.errors import ConfigError

LIBRARY = pathlib.Path(__file__).with_name("_bind_loopback.so")


def preload(others: str | None = None) -> str:
    """Returns the LD_PRELOAD under which a process listens on loopback only.

    Args:
      others: libraries that are preloaded already, as in LD_PRELOAD.

    Raises:
      ConfigError: the library is not built.
    """
    if not LIBRARY.exists():
        raise ConfigError(
            f"{LIBRARY} is missing, without which a local cluster would answer the whole network; "
            "build it: pip install -e . in the project"
        )
    path = str(LIBRARY)
    if any(separator in path for separator in ": "):
        # LD_PRELOAD knows no quotes.
        link = pathlib.Path(tempfile.mkdtemp(prefix="amstf-"), LIBRARY.name)
        link.symlink_to(LIBRARY)
        path = str(link)
    return f"{path} {others}" if others else path
