"""What TensorFlow's C++ writes past all settings does not reach the terminal; all else does."""

import os
import subprocess
import sys

import pytest

NOTE = "W0000 00:00:1795299762.727528   29962 destroy_node.h:59] Ignoring an error: INVALID\n"
MORE = 'Additional GRPC error information from remote target\n:{"created":"@1.7"}\n'
SCRIPT = """
import os, sys
from launch import native_logs
with native_logs.{name}():
    os.write(2, b'''{note}''')
    print("a warning", file=sys.stderr)
    os.write(2, b"last words")
    if {fails}:
        raise SystemExit("the error")
print("after", file=sys.stderr)
"""


def stderr_of(name, note, fails=False, **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name, note=note, fails=fails)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
        check=False,
    )
    return done.stderr


@pytest.mark.parametrize("name", ["filtered", "quieted"])
def test_notes_are_left_out_and_nothing_else_is(name):
    assert stderr_of(name, NOTE) == "a warning\nlast wordsafter\n"
    assert stderr_of(name, NOTE, fails=True) == "a warning\nlast wordsthe error\n"
    assert stderr_of(name, NOTE, AMSTF_VERBOSE="1").startswith(NOTE)


def test_lines_that_belong_to_a_note_go_with_it():
    assert stderr_of("filtered", NOTE + MORE) == "a warning\nlast wordsafter\n"
    # Without the note before them they may be anybody's.
    assert stderr_of("filtered", MORE).startswith(MORE)


def test_pages_about_a_lost_server_are_left_out_and_other_errors_are_not():
    lost = "E0000 00:00:1795480774.3   192 context.cc:904] Failed to remove function remotely due\n"
    end = "This could happen if the remote target has been disconnected from the client.\n"
    assert stderr_of("filtered", lost + MORE + end) == "a warning\nlast wordsafter\n"
    other = "E0000 00:00:1795480774.3   192 cuda.cc:9] out of memory\n"
    assert stderr_of("filtered", other).startswith(other)


def test_destructors_that_miss_a_lost_server_are_left_out_and_others_are_not():
    script = """
import launch
class Error(Exception): pass
class Owner:
    def __del__(self): raise Error("gone")
{module}
Owner()
"""
    for module, shown in [("Error.__module__ = 'tensorflow.errors'", False), ("", True)]:
        done = subprocess.run(
            [sys.executable, "-c", script.format(module=module)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert ("Error: gone" in done.stderr) == shown, done.stderr
        assert shown or done.stderr == ""
