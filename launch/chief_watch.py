"""Waits for a chief, and on one machine cares for the workers and servers that die meanwhile."""

import contextlib
import math
import os
import pathlib
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Self

from launch import child, program
from launch.restarts import Restarts

Task = tuple[str, int]
# SIGHUP (the terminal was closed) is passed on as SIGTERM: the chief should end, as for the others.
_FORWARDED = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}
_ASKED_FOR = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}


class ChiefWatch:
    """Waits for a chief, forwards signals to it, reports workers and servers that die.

    Args:
      others: the workers and servers of this machine; their log files are named in reports.
      say: prints one line.
      grace: seconds that the chief has to end once it is interrupted or its cluster is lost.
      log_path: the log file of a task of `others`.
      start: starts a task of `others` again, at its address.
      max_restarts: times that each worker is started again.
    """

    def __init__(
        self,
        others: Mapping[Task, subprocess.Popen],
        *,
        say: Callable[[str], None],
        grace: float,
        log_path: Callable[[str, int], pathlib.Path] | None = None,
        start: Callable[[str, int], subprocess.Popen] | None = None,
        max_restarts: int = 0,
    ):
        self._chief: subprocess.Popen | None = None
        self._others = dict(others)
        self._log_path = log_path
        self._say = say
        self._grace = grace
        self._start = start
        self._restarts = {task: Restarts(max_restarts) for task in others if task[0] == "worker"}
        self._due: dict[Task, float] = {}  # When a worker that died is started again.
        self._must_end_by: float | None = None
        self._why = ""
        self._signal: int | None = None
        self._signalled = -math.inf

    @contextlib.contextmanager
    def forwarded_signals(self) -> Iterator[None]:
        """While it is open, signals that end a program go to the chief instead of here."""
        before = {number: signal.signal(number, self._forward) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, chief: subprocess.Popen, timeout: float | None = None) -> int:
        """Waits until the chief has left.

        Args:
          chief: the running chief.
          timeout: seconds after which it is killed; None: no limit.

        Returns:
          Its exit code; 128 + n if signal n ended it, or a signal that was passed on to it.

        Raises:
          TimeoutError: it ran longer than `timeout`.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        self._chief = chief
        if self._signal is not None:  # It came while the chief was being started.
            chief.send_signal(self._signal)
        with _Ends([chief, *self._others.values()]) as ends:
            while chief.poll() is None:
                now = time.monotonic()
                if give_up is not None and now >= give_up:
                    _kill(chief)
                    raise TimeoutError(f"the chief did not end within {timeout:g} s; killed")
                if self._must_end_by is not None and now >= self._must_end_by:
                    self._say(
                        f"the chief did not end within {self._grace:g} s ({self._why}): killed"
                    )
                    _kill(chief)
                    break
                self._report_ends()
                self._start_what_is_due(ends)
                # A signal handler may set a deadline while this waits: so never wait long.
                ends.wait(0.5)
        code = chief.returncode
        if self._signal is not None and code < 0:
            return 128 + self._signal
        if code < 0 and self._must_end_by is None:
            self._say(f"error: the chief was {child.describe_end(chief)}")
        if self.wants_restart:  # The chief may have noticed what died before this process has.
            self._set_deadline("the chief has left")
            self._report_ends()
        return 128 - code if code < 0 else code

    @property
    def wants_restart(self) -> bool:
        """Whether the chief, when it has left, is to be started again with its whole cluster."""
        assert self._chief is not None and self._chief.returncode is not None
        code = self._chief.returncode
        killed = code < 0 and code not in _ASKED_FOR
        return self._signal is None and (killed or code == program.EXIT_RESTART)

    def _forward(self, number: int, frame: object) -> None:
        del frame
        now = time.monotonic()
        # timeout(1) signals its child and then its group; a second one would end the clean-up.
        if now - self._signalled < 1:
            return
        self._signalled = now
        self._signal = _FORWARDED[signal.Signals(number)]
        self._set_deadline(f"after {signal.Signals(number).name}")
        if self._chief is not None:
            self._chief.send_signal(self._signal)

    def _report_ends(self) -> None:
        for task, process in list(self._others.items()):
            if process.poll() is not None:
                del self._others[task]
                self._report(task, process)

    def _report(self, task: Task, process: subprocess.Popen) -> None:
        assert self._log_path is not None
        role, index = task
        ended = f"{role} {index} died ({child.describe_end(process)}), log: "
        ended += str(self._log_path(role, index))
        if role == "ps":
            self._say(f"error: {ended}; the chief cannot go on without its variables")
            self._set_deadline(f"ps {index} died")
            return
        delay = None
        if not program.is_permanent(process.returncode) and self._must_end_by is None:
            delay = self._restarts[task].next_delay()
        if delay is not None:
            self._due[task] = time.monotonic() + delay
            self._say(f"warning: {ended}; it starts again in {delay:g} s ({self._restarts[task]})")
        elif self._due or any(other == "worker" for other, _ in self._others):
            self._say(f"warning: {ended}; the other workers go on")
        else:
            self._say(f"error: {ended}; it was the last worker")
            self._set_deadline("the last worker died")

    def _start_what_is_due(self, ends: "_Ends") -> None:
        for task, due in list(self._due.items()):
            if time.monotonic() >= due and self._must_end_by is None:
                assert self._start is not None
                del self._due[task]
                self._others[task] = self._start(*task)
                ends.add(self._others[task])

    def _set_deadline(self, why: str) -> None:
        if self._must_end_by is None:
            self._must_end_by, self._why = time.monotonic() + self._grace, why


def _kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


class _Ends:
    """Wakes up when one of some processes ends."""

    def __init__(self, processes: list[subprocess.Popen]):
        self._poll = select.poll()
        self._files: list[int] = []
        for process in processes:
            self.add(process)

    def add(self, process: subprocess.Popen) -> None:
        if process.returncode is None:
            self._files.append(os.pidfd_open(process.pid))
            self._poll.register(self._files[-1], select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            os.close(file)

    def wait(self, seconds: float) -> None:
        for file, _ in self._poll.poll(seconds * 1000):
            self._poll.unregister(file)
