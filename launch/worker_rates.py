"""How fast each worker is, and which one lags behind the others. Pure: time and counts are given.

What counts as a straggler, and when nobody is judged: docs/design/launch.md, "Workers".
"""

from __future__ import annotations

import collections

import numpy as np

_WINDOW = (30.0, 10)  # Seconds and steps of the fastest worker over which one is found slow,
_RECENT = (10.0, 5)  # and over which one has kept up again: sooner, since it is news as well.
_FIRST = (2.0, 2)  # Enough to show something.
_SLOW = 0.5  # Of the median of the others.
_KEEPS_UP = 0.7  # Above `_SLOW`, so that one at the border is not reported time and again.
_SILENT_STEPS = 5  # Steps that the others would have done meanwhile.
_PLENTY = 4  # Steps for each worker: that some have nothing to do at the end is a small part.
_APART = 2  # Steps for each worker: more than pass between the loss of a step and its end.
_FIRST_STEP_SECONDS = 60.0  # A worker prepares its function before its first step.
_LONGEST_HISTORY = 3600
_SHOWN_ONE_BY_ONE = 6


class WorkerRates:
    """Rates of the workers of a cluster, from how many steps each has done.

    Only time in which every worker has work is counted: none between segments, and none at the end
    of one, when few steps are left. A worker is not judged before its first step (or a minute).

    Args:
        num_workers: Workers of the cluster (W).
        samples_per_step: Samples of a step (B).
        silent_seconds: A worker that has done no step for so long is a straggler, if the others
            have done several meanwhile.

    Attributes:
        straggling_seconds: How long each worker was known as a straggler, float [W].

    Example:
        >>> rates = WorkerRates(num_workers=2, samples_per_step=10)
        >>> rates.begin(0.0, np.array([0, 0]), steps=10_000)
        >>> for second in range(1, 32):
        ...     steps = np.array([80, 30]) * second
        ...     lines = rates.observe(second, steps, latest=np.full(2, steps.sum()))
        >>> lines
        ['warning: worker 1 is slow: 300 samples/s in the last 30 s, the others 800']
        >>> rates.text()
        '800 300'
    """

    def __init__(
        self, num_workers: int, samples_per_step: int, silent_seconds: float = 10.0
    ) -> None:
        self._num_workers = num_workers
        self._samples_per_step = samples_per_step
        self._silent_seconds = silent_seconds
        self.straggling_seconds = np.zeros(num_workers)
        self._is_straggler = np.zeros(num_workers, bool)
        self._left: int | None = None  # Steps of the segment that are not done; None between two.
        self._has_begun = False  # Somebody has done a step, of any segment.
        self._now = 0.0
        self._steps = np.zeros(num_workers, np.int64)
        self._stepped_at = np.zeros(num_workers)
        # Seconds and steps that count, and the values that they had at each observation.
        self._clock, self._done = 0.0, np.zeros(num_workers, np.int64)
        self._history = collections.deque([(self._clock, self._done)], _LONGEST_HISTORY)
        # On that clock: since when a worker may be judged. First, since its first step.
        self._judged_from = np.full(num_workers, np.inf)

    def begin(self, now: float, worker_steps: np.ndarray, steps: int) -> None:
        """Begins a segment; one of a few steps only is not looked at.

        Args:
            now: The time, seconds.
            worker_steps: Steps that each worker has done, int64 [W].
            steps: Steps of the segment.
        """
        self._now, self._steps = now, worker_steps
        self._left = steps if steps >= _PLENTY * self._num_workers else None
        self._stepped_at[:] = now

    def end(self) -> None:
        """Ends a segment: the workers rest."""
        self._left = None

    def observe(self, now: float, worker_steps: np.ndarray, latest: np.ndarray) -> list[str]:
        """Takes in what the workers have done by now.

        Args:
            now: The time, seconds.
            worker_steps: Steps that each worker has done, int64 [W].
            latest: How many steps all had done with the latest of each worker, int64 [W].

        Returns:
            What is to be said: a line for each worker that has become a straggler, or is one no
            longer.
        """
        if self._left is None:
            return []
        seconds, done = now - self._now, worker_steps - self._steps
        self._now, self._steps = now, worker_steps
        counts = self._left >= _PLENTY * self._num_workers
        self._left -= int(done.sum())
        stepped = done > 0
        self._stepped_at[stepped] = now
        if not self._has_begun:
            self._has_begun = bool(stepped.any())
            self._stepped_at[:] = now
        self.straggling_seconds[self._is_straggler] += seconds
        if counts:
            self._clock, self._done = self._clock + seconds, self._done + done
            self._history.append((self._clock, self._done))
        self._judged_from[stepped & np.isinf(self._judged_from)] = self._clock
        if self._num_workers == 1:
            return []
        return (self._compare() if counts else []) + self._find_silent(latest)

    def rates(self) -> np.ndarray | None:
        """Samples per second of each worker in the last ten seconds or so, [W]; None: not known."""
        recent = self._over(*_RECENT) or self._over(*_FIRST)
        return None if recent is None else self._rates(*recent)

    def text(self) -> str:
        """The rates for a line on the terminal; "" if not known, or of one worker."""
        rates = self.rates()
        if rates is None or self._num_workers == 1:
            return ""
        if self._num_workers <= _SHOWN_ONE_BY_ONE:
            return " ".join(f"{rate:,.0f}" for rate in rates)
        text = f"{rates.min():,.0f} to {rates.max():,.0f}, median {np.median(rates):,.0f}"
        slow = [f"{worker}" for worker in np.flatnonzero(self._is_straggler)]
        return text + (f", slow: {' '.join(slow)}" if slow else "")

    def _rates(self, seconds: float, done: np.ndarray) -> np.ndarray:
        return done * self._samples_per_step / seconds

    def _over(self, seconds: float, steps: int) -> tuple[float, np.ndarray] | None:
        """The shortest time until now that is at least so long and of so many steps."""
        for clock, done in reversed(self._history):
            if self._clock - clock >= seconds and (self._done - done).max() >= steps:
                return self._clock - clock, self._done - done
        return None

    def _compare(self) -> list[str]:
        """Finds who is slow and who is no longer, by rates."""
        lines = []
        recent, window = self._over(*_RECENT), self._over(*_WINDOW)
        if recent is not None:
            rates = self._rates(*recent)
            for worker in np.flatnonzero(self._is_straggler):
                others = _median_of_others(rates, worker)
                if rates[worker] and rates[worker] >= _KEEPS_UP * others:
                    self._is_straggler[worker] = False
                    self._judged_from[worker] = self._clock
                    lines.append(
                        f"worker {worker} keeps up again: {rates[worker]:,.0f} samples/s, "
                        f"the others {others:,.0f}"
                    )
        if window is not None:
            seconds, rates = window[0], self._rates(*window)
            begin = self._clock - seconds
            for worker in np.flatnonzero(~self._is_straggler & (self._judged_from <= begin)):
                others = _median_of_others(rates, worker)
                if rates[worker] < _SLOW * others:
                    self._is_straggler[worker] = True
                    lines.append(
                        f"warning: worker {worker} is slow: {rates[worker]:,.0f} samples/s in the "
                        f"last {seconds:.0f} s, the others {others:,.0f}"
                    )
            # What is older is never asked for again.
            while len(self._history) > 1 and self._history[1][0] <= begin:
                self._history.popleft()
        return lines

    def _find_silent(self, latest: np.ndarray) -> list[str]:
        """Finds who has done no step for long, though it has one to do."""
        recent = self._over(*_RECENT)
        if recent is None or self._left is None:
            return []
        seconds, done = recent
        silent = self._now - self._stepped_at
        all_have_work = self._left >= self._num_workers
        has_work = np.full(self._num_workers, True)
        if not all_have_work:
            # Who did its latest step after that of another found no more to do. A step counts a
            # little before its end, so with none left somebody is still in one.
            order, in_a_step = np.sort(latest), max(self._left, 1)
            has_work = latest <= order[in_a_step - 1]
            if order[in_a_step] - order[in_a_step - 1] < _APART * self._num_workers:
                return []  # It is not sure who.
        lines = []
        for worker in np.flatnonzero(has_work & ~self._is_straggler):
            is_new = np.isinf(self._judged_from[worker])
            patience = max(self._silent_seconds, _FIRST_STEP_SECONDS if is_new else 0.0)
            if silent[worker] < patience:
                continue
            if silent[worker] * _median_of_others(done, worker) / seconds < _SILENT_STEPS:
                continue
            # If most of them hang it is not this one's fault.
            others_silent = np.quantile(np.delete(silent, worker), 0.5, method="lower")
            if all_have_work and others_silent > silent[worker] / 2:
                continue
            self._is_straggler[worker] = True
            others = "the others go on" if all_have_work else "the others have none left to do"
            lines.append(
                f"warning: worker {worker} has done no step for {silent[worker]:.0f} s, "
                f"and {others}"
            )
        return lines


def _median_of_others(values: np.ndarray, worker: int) -> float:
    return float(np.median(np.delete(values, worker)))
