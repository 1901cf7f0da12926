"""Reads hostile files in a process of its own: what ends that process is seen as a failed example.

As a program it reads lines of JSON, [target, argument], and answers each with a line of JSON:
{"good": result}, {"refused": message} or {"raised": traceback}.
"""

import contextlib
import json
import os
import pathlib
import resource
import select
import signal
import subprocess
import sys
import time
import traceback

from tests.hostile.strategies import check_message

ROOT = pathlib.Path(__file__).parents[2]
MEMORY = 3 << 30
"""Bytes of address space that a target may take on top of what TensorFlow itself has mapped."""
SECONDS = 120
"""When a target counts as hanging: far longer than any takes on a busy machine."""


class Child:
    """The process; made anew when an example has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def ask(self, target: str, argument: object) -> dict:
        """Runs one target; a crash, a hang or an unexpected exception is an AssertionError."""
        process = self._running()
        process.stdin.write(json.dumps([target, argument]).encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + SECONDS
        answer = b""
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left < 0 or not select.select([process.stdout], [], [], left)[0]:
                self.stop()
                raise AssertionError(f"{target} hangs: no answer in {SECONDS} s")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                code = process.wait()
                self.stop()
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise AssertionError(f"{target} ended the process: {how}")
            answer += piece
        result = json.loads(answer)
        assert "raised" not in result, result["raised"]
        return result

    def good_or_refused(self, target: str, argument: object, *names: str) -> object:
        """Returns the result of a target, or None after checking its refusal."""
        answer = self.ask(target, argument)
        if "refused" in answer:
            check_message(answer["refused"], *names)
        return answer.get("good")

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.child"],
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def read_samples(argument: dict) -> int:
    """Opens a data set and reads all of it; the number of records."""
    from amstf.data import Samples, record_errors

    samples = Samples.open(argument["directory"], checksums=argument["checksums"])
    with record_errors(samples, "train"):
        batches = samples.dataset("train", 4, only_inputs=False)
        return sum(int(batch["user"].shape[0]) for batch in batches)


def read_store(path: str) -> int:
    """Opens an image store, reads all of it in Python and through the op; its images."""
    import numpy as np
    import tensorflow as tf

    from amstf import ops
    from amstf.store import ImageStore

    store = ImageStore.open(path)
    store.validate()
    features = store.read(store.ids)
    # Not the shared one of an earlier file of that name.
    with ops.image_errors():
        handle = ops.image_store(store.files, store.width, tf.dtypes.as_dtype(store.dtype))
        looked_up, _ = ops.image_lookup(handle, store.ids)
    np.testing.assert_array_equal(looked_up, features)
    return len(store)


def open_in_kernel(argument: dict) -> int:
    """Gives the C++ store a layout that no Python has checked; its images."""
    import tensorflow as tf

    from amstf import ops
    from amstf.errors import StoreError
    from amstf.store.hdf5_layout import StoreFile

    width, dtype = argument.pop("width"), argument.pop("dtype")
    file = StoreFile(width=width, dtype=dtype, attributes={}, **argument)
    try:
        handle = ops.image_store([file], width, tf.dtypes.as_dtype(dtype))
        features, _ = ops.image_lookup(handle, tf.range(64, dtype=tf.int64), missing="zeros")
    except (tf.errors.OpError, ValueError, OverflowError) as error:
        raise StoreError(str(error)) from error
    return int(features.shape[0])


TARGETS = {f.__name__: f for f in (read_samples, read_store, open_in_kernel)}


def main() -> None:
    """Answers until stdin ends."""
    import tensorflow as tf

    from amstf.errors import AmstfError
    from amstf.ops import load_library

    load_library()
    tf.config.threading.set_inter_op_parallelism_threads(2)
    tf.data.Dataset.range(3).batch(2).reduce(0, lambda a, b: a)  # Starts TensorFlow's threads.
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a library prints is no answer.
    for line in sys.stdin:
        target, argument = json.loads(line)
        try:
            answer = {"good": TARGETS[target](argument)}
        except AmstfError as error:
            answer = {"refused": str(error)}
        except BaseException:
            answer = {"raised": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
