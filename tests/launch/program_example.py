"""An example program.

Its second paragraph.
"""

import os
import time

from absl import flags

from amstf.errors import ConfigError
from launch import program

_WAYS = ["well", "wrong", "crash", "slow", "lost", "missing", "long", "replaced", "dropped"]
_HOW = flags.DEFINE_enum("how", "well", _WAYS, "How it ends.")
_DATASET = flags.DEFINE_string("dataset", None, "Directory of the data set.", required=True)
flags.DEFINE_integer("batch_size", 8, "Samples of a step.", lower_bound=1)
flags.DEFINE_bool("resume", True, "Go on where the last run stopped.")


class UnavailableError(Exception):
    """Named as TensorFlow's."""


class SlowToGo:
    def __del__(self):
        wait()


def wait() -> None:
    print("waiting", flush=True)
    for _ in range(2400):  # One long wait may begin just after a signal, and miss it.
        time.sleep(0.05)


def main(arguments: list[str]) -> int:
    if _HOW.value == "wrong":
        raise ConfigError(f"--dataset: got {_DATASET.value!r}, wanted a directory")
    if _HOW.value == "long":
        for line in range(100_000):
            print(line)
    if _HOW.value == "crash":
        raise RuntimeError("unexpected")
    if _HOW.value == "lost":
        raise UnavailableError("Connection reset by remote target /job:ps/replica:0/task:0")
    if _HOW.value == "missing":
        raise program.ClusterLostError("worker 1 is missing")
    if _HOW.value == "slow":
        wait()
    if _HOW.value == "replaced":
        try:
            wait()
        except KeyboardInterrupt:  # As pybind does it in the midst of TensorFlow.
            raise RuntimeError("MISMATCH of original and normalized exception types") from None
    if _HOW.value == "dropped":
        SlowToGo()
        wait()
    if _HOW.value == "well":
        print("arguments", *arguments, "level", os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
    return 7 if arguments == ["seven"] else 0


if __name__ == "__main__":
    program.run(main, argument_names=["KIND"])
