"""Who lags behind: found when it does, once, and nobody else; hand-made numbers and simulations."""

import heapq
import random

import numpy as np
import pytest

from launch.worker_rates import WorkerRates

B = 10


class Observed:
    """Rates, and all that was said, with the second at which it was."""

    def __init__(self, workers, **more):
        self.rates = WorkerRates(workers, B, **more)
        self.said = []
        self._latest = np.zeros(workers, np.int64)
        self._steps = np.zeros(workers, np.int64)

    def begin(self, now, steps):
        self.rates.begin(now, self._steps, steps)

    def at(self, now, *steps, latest=None):
        """Takes in counts; by default the workers that stepped did so at the end."""
        steps = np.array(steps)
        self._latest = np.where(steps > self._steps, steps.sum(), self._latest)
        self._steps = steps
        lines = self.rates.observe(now, steps, self._latest if latest is None else latest)
        self.said += [(now, line) for line in lines]

    def each_second(self, first, last, rates, start=None):
        """Steps per second of each worker, from the counts that were there."""
        before = self._steps if start is None else np.array(start)
        for second in range(first, last + 1):
            self.at(second, *(before + np.array(rates) * (second - first + 1)))


@pytest.fixture
def two():
    """Two workers of 80 steps a second each, who have worked for 40 s."""
    observed = Observed(2)
    observed.begin(0, 100_000)
    observed.each_second(1, 40, [80, 80])
    assert observed.said == []
    return observed


def test_rates_are_of_the_last_ten_seconds(two):
    assert two.rates.rates().tolist() == [800, 800]
    two.each_second(41, 45, [160, 40])
    assert two.rates.rates().tolist() == [1200, 600]
    assert two.rates.text() == "1,200 600"


def test_a_slow_worker_is_named_once_and_once_when_it_keeps_up_again(two):
    two.each_second(41, 120, [80, 20])
    # 30 s with n of them at 20 a second and the rest at 80: below half of 80 from n = 21 on.
    slow = (61, "warning: worker 1 is slow: 380 samples/s in the last 30 s, the others 800")
    assert two.said == [slow]
    assert two.rates.straggling_seconds.tolist() == [0, 59]
    two.each_second(121, 200, [80, 80])
    # 10 s with n of them at 80: at least 0.7 of 80 from n = 6 on.
    again = (126, "worker 1 keeps up again: 560 samples/s, the others 800")
    assert two.said == [slow, again]
    assert two.rates.straggling_seconds.tolist() == [0, 59 + 6]


def test_a_worker_that_is_fast_makes_nobody_slow():
    observed = Observed(4)
    observed.begin(0, 10**6)
    observed.each_second(1, 100, [300, 80, 90, 100])
    assert observed.said == []


def test_a_worker_that_hangs_is_named_and_comes_back(two):
    two.each_second(41, 70, [80, 0])
    hangs = (50, "warning: worker 1 has done no step for 10 s, and the others go on")
    assert two.said == [hangs]
    two.each_second(71, 140, [80, 80])
    assert two.said == [hangs, (77, "worker 1 keeps up again: 560 samples/s, the others 800")]


def test_several_that_are_lost_are_all_named():
    observed = Observed(3)
    observed.begin(0, 10**6)
    observed.each_second(1, 40, [80, 80, 80])
    observed.each_second(41, 90, [80, 0, 0])
    assert [(second, line[:17]) for second, line in observed.said] == [
        (50, "warning: worker 1"),
        (50, "warning: worker 2"),
    ]


def test_nobody_is_named_when_all_hang(two):
    two.each_second(41, 41, [80, 40])  # Worker 1 a little before worker 0.
    two.each_second(42, 300, [0, 0])
    two.each_second(301, 400, [80, 80])
    assert two.said == []


def test_nobody_is_named_before_the_first_step():
    observed = Observed(2)
    observed.begin(0, 10_000)
    observed.each_second(1, 200, [0, 0])
    assert observed.rates.rates() is None and observed.rates.text() == ""
    # The second begins 25 s after the first: it had to prepare as well.
    observed.each_second(201, 225, [20, 0])
    observed.each_second(226, 300, [20, 20])
    assert observed.said == []


def test_a_worker_that_never_begins_is_named_after_a_minute():
    observed = Observed(2)
    observed.begin(0, 10_000)
    observed.each_second(1, 100, [20, 0])
    assert observed.said == [
        (61, "warning: worker 1 has done no step for 60 s, and the others go on")
    ]


def test_time_between_segments_does_not_count(two):
    two.rates.end()
    two.at(100, *(40 * np.array([80, 80])))
    two.begin(500, 100_000)
    two.each_second(501, 505, [80, 80])
    assert two.rates.rates().tolist() == [800, 800]
    assert two.said == []


def test_at_the_end_of_a_segment_the_one_that_holds_the_last_step_is_named():
    observed = Observed(2)
    observed.begin(0, 40 * 160 + 200)
    observed.each_second(1, 40, [80, 80])
    # Worker 0 does what is left but for one step, and has nothing more to do.
    for second in range(41, 80):
        observed.at(second, 3200 + min(199, 80 * (second - 40)), 3200)
    assert observed.said == [
        (50, "warning: worker 1 has done no step for 10 s, and the others have none left to do")
    ]


@pytest.mark.parametrize("counted", [False, True])
def test_a_hang_at_the_end_is_named_if_it_is_sure_whose(counted):
    def said(latest):
        observed = Observed(2)
        observed.begin(0, 40 * 160 + 20 + (not counted))
        observed.each_second(1, 40, [80, 80])
        for second in range(41, 80):
            observed.at(second, 3210, 3210, latest=np.array(latest))
        return observed.said

    line = "warning: worker 0 has done no step for 10 s, and the others have none left to do"
    assert said([6410, 6420]) == [(51, line)]
    assert said([6418, 6420]) == []


def test_segments_of_few_steps_are_not_looked_at():
    observed = Observed(4)
    for segment in range(60):
        observed.begin(2 * segment, 15)
        observed.at(2 * segment + 1, *(segment + 1) * np.array([5, 5, 5, 0]))
        observed.rates.end()
    assert observed.said == [] and observed.rates.rates() is None


def test_a_single_worker_is_no_straggler():
    observed = Observed(1)
    observed.begin(0, 1000)
    observed.each_second(1, 20, [50])
    observed.each_second(21, 100, [0])
    assert observed.said == [] and observed.rates.text() == ""
    assert observed.rates.rates().tolist() == [50 * B]


def test_many_workers_are_shown_as_a_range():
    observed = Observed(9)
    observed.begin(0, 10**6)
    observed.each_second(1, 40, [9, 3, 10, 10, 10, 10, 10, 11, 12])
    assert observed.rates.text() == "30 to 120, median 100, slow: 1"


def simulate(durations, segments, seconds=1100.0, first_step=15.0, pause=20.0):
    """Workers that take the steps of segments from one queue; `durations[w](now)` seconds each."""
    workers = len(durations)
    observed = Observed(workers)
    steps, latest = np.zeros(workers, np.int64), np.zeros(workers, np.int64)
    now, next_look = 0.0, 1.0
    while now < seconds:
        left = segments()
        observed._steps = steps.copy()
        observed.begin(now, left)
        start = now + (first_step if not steps.any() else 0.0)
        free = [(start, worker, False) for worker in range(workers)]
        heapq.heapify(free)
        while free:
            at, worker, is_done = heapq.heappop(free)
            while next_look < at:
                lines = observed.rates.observe(next_look, steps.copy(), latest.copy())
                observed.said += [(next_look, line) for line in lines]
                next_look += 1.0
            now = at
            if is_done:
                steps[worker] += 1
                latest[worker] = steps.sum()
            if left:
                left -= 1
                heapq.heappush(free, (at + durations[worker](at), worker, True))
        observed.rates.observe(now, steps.copy(), latest.copy())
        observed.rates.end()
        now += pause
        next_look = now + 1.0
    return observed


@pytest.mark.parametrize("seconds_a_step", [0.1, 0.7, 4.0, 20.0])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_no_false_alarm_in_simulated_trainings(workers, seconds_a_step):
    rng = random.Random(f"{workers} {seconds_a_step}")  # noqa: S311 - numbers that come again
    speeds = [rng.uniform(0.8, 1.25) for _ in range(workers)]
    durations = [
        lambda now, speed=speed: seconds_a_step * speed * rng.choice([0.7, 1.0, 1.0, 1.4])
        for speed in speeds
    ]
    lengths = [3, 4 * workers, 7 * workers + 1, 40 * workers]
    observed = simulate(durations, lambda: rng.choice(lengths), 400 + 100 * seconds_a_step)
    assert observed.said == []


@pytest.mark.parametrize("seconds_a_step", [0.1, 0.7, 4.0])
def test_a_worker_that_becomes_four_times_slower_is_found_in_simulated_trainings(seconds_a_step):
    def slow(now):
        return seconds_a_step * (4 if 300 <= now < 900 else 1)

    observed = simulate(
        [lambda now: seconds_a_step, slow, lambda now: seconds_a_step],
        lambda: max(60, int(90 / seconds_a_step)),
    )
    (named, line), (again, well) = observed.said
    assert line.startswith("warning: worker 1 is slow: ")
    assert well.startswith("worker 1 keeps up again: ")
    # Pauses make up to as much time again.
    assert 310 < named < 300 + 2 * max(30, 10 * seconds_a_step) + 20
    assert 900 < again < 900 + 2 * max(10, 5 * seconds_a_step) + 20
