"""How a chief's end is told, and which ends ask for another start."""

import os
import signal
import sys

import pytest

from launch import child, program
from launch.chief_watch import ChiefWatch


def end_of(code_of_chief, interrupt=False):
    said = []
    watch = ChiefWatch({}, say=said.append, grace=20)
    with watch.forwarded_signals():
        if interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        chief = child.spawn([sys.executable, "-c", code_of_chief], environment=os.environ)
        code = watch.wait(chief)
    return code, watch.wants_restart, said


@pytest.mark.parametrize(
    ("code", "again"),
    [(0, False), (1, False), (2, False), (program.EXIT_RESTART, True), (130, False), (143, False)],
)
def test_only_a_lost_cluster_wants_a_restart(code, again):
    assert end_of(f"import sys; sys.exit({code})") == (code, again, [])


@pytest.mark.parametrize(
    ("number", "again"),
    [(signal.SIGKILL, True), (signal.SIGSEGV, True), (signal.SIGTERM, False)],
)
def test_a_signal_that_nobody_asked_for_wants_a_restart_and_is_told(number, again):
    code, wants, said = end_of(f"import os; os.kill(os.getpid(), {number:d})")
    assert (code, wants) == (128 + number, again)
    assert said == [f"error: the chief was killed by {number.name}"]


def test_a_person_who_interrupts_wants_no_restart():
    for end in ("sys.exit(138)", "os.kill(os.getpid(), 9)"):
        wait = f"try: time.sleep(60)\nexcept KeyboardInterrupt: {end}"
        code, wants, said = end_of(f"import os, sys, time\n{wait}", interrupt=True)
        assert code in (138, 130) and not wants and said == []
