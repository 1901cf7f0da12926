"""How programs end and what they say: help, wrong flags, wrong input, ctrl-C, exceptions."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

from launch import program

ROOT = pathlib.Path(__file__).parent.parent.parent
EXAMPLE = "tests.launch.program_example"


def run(*arguments, module=EXAMPLE, **environment):
    own = ("TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL")  # The second is set by importing `launch` here.
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_is_the_programs_own_documentation():
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "An example program.\n\nIts second paragraph.\n\nusage: python -m"
    )
    assert f"usage: python -m {EXAMPLE} KIND [--flag=value ...]" in done.stdout
    assert (
        "--how=<well|wrong|crash|slow|lost|missing|long|replaced|dropped>"
        "\n      How it ends. (default: well)" in done.stdout
    )
    assert "--[no]resume\n" in done.stdout
    assert "(default: 8)" in done.stdout
    assert "logtostderr" not in done.stdout  # absl's own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datset=x"], r"Unknown command line flag 'datset'. Did you mean: dataset \?"),
        ([], "flag --dataset is missing"),
        (["--dataset=x", "--batch_size=0"], "flag --batch_size=0: 0 is not a positive integer"),
        (["--dataset=x", "--batch_size=x"], "flag --batch_size=x: invalid literal for int.*"),
        (["--dataset=x", "--how=odd"], "flag --how=odd: value should be one of <well.*"),
        (["--dataset=x", "a", "b"], r"unexpected argument 'b' \(a flag is written --name=value\)"),
    ],
)
def test_wrong_flags_are_one_line_and_point_to_the_help(arguments, message):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    error, see = done.stderr.splitlines()
    assert re.fullmatch(f"error: {message}", error), error
    assert see == f"see: python -m {EXAMPLE} --help"


def test_flags_may_follow_arguments_and_the_exit_code_is_mains():
    done = run("seven", "--dataset=x")
    assert (done.returncode, done.stdout, done.stderr) == (7, "arguments seven level 3\n", "")


def test_what_the_environment_says_about_logs_is_kept():
    assert "level 1" in run("--dataset=x", TF_CPP_MIN_LOG_LEVEL="1").stdout
    assert "level None" in run("--dataset=x", AMSTF_VERBOSE="1").stdout


def test_wrong_input_is_one_line():
    done = run("--dataset=x", "--how=wrong")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --dataset: got 'x', wanted a directory\n"


def test_unexpected_exceptions_keep_their_traceback():
    done = run("--dataset=x", "--how=crash")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: unexpected\n")


def test_lost_server_is_one_line_with_the_cure():
    done = run("--dataset=x", "--how=lost")
    assert done.returncode == program.EXIT_RESTART
    assert re.fullmatch("error: .*parameter server is lost.*last checkpoint\n", done.stderr)
    assert "Traceback" in run("--dataset=x", "--how=lost", AMSTF_VERBOSE="1").stderr


def test_a_missing_part_of_the_cluster_is_one_line_and_asks_for_a_restart():
    done = run("--dataset=x", "--how=missing")
    assert (done.returncode, done.stderr) == (program.EXIT_RESTART, "error: worker 1 is missing\n")


def test_exit_codes_fit_kubeflows_policy():
    again = (program.EXIT_RESTART, program.EXIT_INTERRUPTED, program.EXIT_TERMINATED, 137)
    assert not any(program.is_permanent(code) for code in (0, *again)) and min(again) >= 128
    assert program.is_permanent(program.EXIT_UNEXPECTED)
    assert program.is_permanent(program.EXIT_WRONG_INPUT)


@pytest.mark.parametrize(
    ("number", "said", "code"),
    [(signal.SIGINT, "interrupted\n", 130), (signal.SIGTERM, "terminated\n", 143)],
)
@pytest.mark.parametrize("how", ["slow", "replaced", "dropped"])
def test_signals_are_one_line(number, said, code, how):
    command = [sys.executable, "-m", EXAMPLE, "--dataset=x", f"--how={how}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        assert process.stderr.read() == said
    assert process.returncode == code


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "error: TF_CONFIG is not set: put the cluster"),
        ("{", "error: TF_CONFIG is not JSON"),
        (
            '{"cluster": {"chief": ["c:1"], "worker": ["w:1"], "ps": ["p:1"]}, '
            '"task": {"type": "chief"}}',
            "error: launch.server runs tasks of type worker or ps, TF_CONFIG says chief 0; start",
        ),
    ],
)
def test_server_refuses_a_wrong_role_at_once(config, message):
    done = run(module="launch.server", **({"TF_CONFIG": config} if config else {}))
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_server_refuses_a_taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(
            module="launch.server",
            TF_CONFIG=f'{{"cluster": {{"chief": ["c:1"], "worker": ["w:1"], "ps": '
            f'["127.0.0.1:{port}"]}}, "task": {{"type": "ps", "index": 0}}}}',
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port} of ps 0 is taken")


def test_a_reader_that_has_had_enough_is_no_crash():
    command = (
        f"{sys.executable} -m {EXAMPLE} --dataset=d --how=long | head -n 2; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n1\n141\n", "")
