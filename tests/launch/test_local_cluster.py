"""A local cluster of real processes: training, ctrl-C, lost processes, and nothing left behind."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

from amstf.errors import ConfigError
from launch import loopback, program, tf_config
from launch.local_cluster import LocalCluster, parse_cluster
from tests.cluster import processes_with, run_on_cluster

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
MARK = "AMSTF_TEST_LAUNCHER"


@pytest.mark.parametrize(("text", "sizes"), [("2x2", (2, 2)), (" 1x3 ", (1, 3)), ("16x4", (16, 4))])
def test_parse_cluster(text, sizes):
    assert parse_cluster(text) == sizes


@pytest.mark.parametrize("text", ["", "2", "2x", "x2", "0x1", "1x0", "-1x2", "2X2", "2x2x2", "axb"])
def test_parse_cluster_refuses(text):
    with pytest.raises(ConfigError, match=r"wanted WORKERSxSERVERS .* e.g. 2x2") as error:
        parse_cluster(text)
    assert repr(text) in str(error.value)


def test_tf_config_of_every_task_is_valid(tmp_path):
    cluster = LocalCluster(2, 3, tmp_path)
    for role, count in [("chief", 1), ("worker", 2), ("ps", 3)]:
        for index in range(count):
            assert tf_config.parse(cluster.tf_config(role, index)).name == f"{role} {index}"
    assert cluster.environment()["TF_CONFIG"] == cluster.tf_config("chief", 0)


def test_no_workers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one worker and one server: got 0 workers"):
        LocalCluster(0, 2, tmp_path)


def test_modules_of_the_launcher_do_not_import_tensorflow():
    code = "import sys, launch.local_cluster, launch.program; print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


LISTENER = """
import socket, sys
found = []
for family, host in [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]:
    for only_v6 in (0, 1):
        with socket.socket(family) as server:
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((host, int(sys.argv[1])))
            server.listen()
            found.append(server.getsockname()[0])
with socket.socket() as client:
    client.bind(("", 0))
    found.append(client.getsockname()[0])
print(*found)
"""


@pytest.mark.parametrize("directory", ["plain", "with space"])
def test_what_listens_in_a_local_cluster_listens_on_loopback(tmp_path, monkeypatch, directory):
    library = tmp_path / directory / loopback.LIBRARY.name
    library.parent.mkdir()
    library.write_bytes(loopback.LIBRARY.read_bytes())
    monkeypatch.setattr(loopback, "LIBRARY", library)
    cluster = LocalCluster(1, 1, tmp_path / "logs")
    port = cluster.cluster["ps"][0].rpartition(":")[2]
    command = [sys.executable, "-c", LISTENER, port]
    done = subprocess.run(
        command, env=cluster.environment("ps"), capture_output=True, text=True, check=True
    )
    # The last is a client, which may go anywhere.
    wanted = ["127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1", "::1", "0.0.0.0"]
    assert (done.stdout.split(), done.stderr) == (wanted, "")


def test_without_the_library_a_local_cluster_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(loopback, "LIBRARY", tmp_path / "absent.so")
    with pytest.raises(ConfigError, match=r"absent.so is missing.*pip install -e"):
        LocalCluster(1, 1, tmp_path).environment()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_plain_keras_program_trains_on_a_cluster_with_a_clean_terminal():
    proxy = {"http_proxy": "http://127.0.0.1:9"}  # Must not be asked for loopback addresses.
    chief = run_on_cluster(HERE / "chief_example.py", timeout=170, env=proxy)
    assert chief.returncode == 0, chief
    lines = chief.stdout.splitlines()
    assert [line.split(" loss")[0] for line in lines[:2]] == ["epoch 0", "epoch 1"]
    assert lines[2] == "variables on /job:ps/replica:0/task:0 /job:ps/replica:0/task:1"
    assert lines[3] == "listening: 5 on loopback, 0 elsewhere"
    assert (chief.stderr, chief.said) == ("", ()), chief
    assert set(chief.logs) == {"worker-0", "worker-1", "ps-0", "ps-1"}
    assert all("ready: " in log and "ended by SIGTERM" in log for log in chief.logs.values()), chief


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_helper_runs_source_text_and_gives_the_exit_code():
    script = """
        import sys
        print("hello", sys.argv[1])
        sys.exit(5)
    """
    chief = run_on_cluster(script, workers=1, servers=1, timeout=150, arguments=("you",))
    assert (chief.returncode, chief.stdout) == (5, "hello you\n"), chief


STUBBORN = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""


def test_chief_that_takes_too_long_is_killed(tmp_path):
    cluster = LocalCluster(1, 1, tmp_path)
    with pytest.raises(TimeoutError, match=r"the chief did not end within 0.3 s; killed"):
        cluster.run_chief([sys.executable, "-c", STUBBORN], timeout=0.3)


@pytest.mark.parametrize(("end", "code"), [("sys.exit(4)", 4), ("os.kill(os.getpid(), 9)", 137)])
def test_exit_code_of_the_chief(tmp_path, end, code):
    cluster = LocalCluster(1, 1, tmp_path)
    assert cluster.run_chief([sys.executable, "-c", f"import os, sys; {end}"]) == code


def test_chief_that_ignores_ctrl_c_is_killed_after_the_grace(tmp_path):
    said = []
    cluster = LocalCluster(1, 1, tmp_path, say=said.append)
    out = tmp_path / "out"

    def interrupt_when_up():
        wait_for(lambda: "up" in out.read_text(), 20)
        os.kill(os.getpid(), signal.SIGINT)

    with open(out, "wb") as stdout:
        thread = threading.Thread(target=interrupt_when_up)
        thread.start()
        code = cluster.run_chief(
            [sys.executable, "-c", STUBBORN], stdout=stdout, interrupt_grace=0.2, timeout=30
        )
        thread.join()
    assert code == 130
    assert said == ["the chief did not end within 0.2 s (after SIGINT): killed"]


@pytest.mark.timeout(180)
def test_worker_that_dies_at_the_start_is_named_with_its_log(tmp_path):
    cluster = LocalCluster(1, 1, tmp_path)
    with socket.socket() as taken:
        host, _, port = cluster.cluster["worker"][0].rpartition(":")
        taken.bind(
            (host, int(port))
        )  # Bound, not listening: nothing answers in the worker's place.
        with pytest.raises(ConfigError) as error, cluster:
            pass
    message = str(error.value)
    log = tmp_path / "worker-0.log"
    assert f"worker 0 died while starting (exit code 2); its log {log} ends with:" in message
    assert f"error: port {port} of worker 0 is taken" in message
    assert not cluster.processes
    assert not list(tmp_path.glob("*.pid"))


@pytest.mark.timeout(180)
def test_task_that_does_not_answer_is_named_early(tmp_path):
    cluster = LocalCluster(1, 1, tmp_path, start_timeout=0.2)
    with pytest.raises(ConfigError, match=r"ps 0, worker 0 did not answer within 0.2 s; its log"):
        cluster.__enter__()
    assert not cluster.processes


class Launcher:
    """The example launcher as a process group of its own, as a shell starts it."""

    def __init__(self, log_dir, **environment):
        self.mark = uuid.uuid4().hex
        self.log_dir = log_dir
        self.out = log_dir / "launcher.out"
        self.err = log_dir / "launcher.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.launch.launcher_example", log_dir],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), MARK: self.mark, **environment},
                stdout=out,
                stderr=err,
                process_group=0,
            )

    def wait_for_output(self, text, seconds=120):
        wait_for(lambda: text in self.out.read_text() or self.process.poll() is not None, seconds)
        assert text in self.out.read_text(), self.err.read_text()

    def pid_of(self, task):
        return int((self.log_dir / f"{task}.pid").read_text())

    def everything_is_gone(self):
        return not processes_with(MARK, self.mark)


@pytest.fixture
def start_launcher(tmp_path):
    """Starts launchers in `tmp_path`; none outlives a test that fails."""
    started = []

    def start(**environment):
        started.append(Launcher(tmp_path, EPOCHS="100000", **environment))
        return started[-1]

    yield start
    for launcher in started:
        launcher.process.kill()
        launcher.process.wait()


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ctrl_c_reaches_the_chief_once_and_ends_everything(tmp_path, start_launcher):
    launcher = start_launcher()
    launcher.wait_for_output("epoch 1 ")
    os.killpg(launcher.process.pid, signal.SIGINT)
    assert launcher.process.wait(20) == 130
    assert launcher.err.read_text() == "interrupted\n"
    assert launcher.everything_is_gone()
    assert not list(tmp_path.glob("*.pid"))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_outlives_a_killed_launcher(start_launcher):
    launcher = start_launcher()
    launcher.wait_for_output("epoch 1 ")
    assert len(processes_with(MARK, launcher.mark)) == 4  # Launcher, chief, worker, server.
    launcher.process.kill()
    launcher.process.wait()
    wait_for(launcher.everything_is_gone, 10)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_what_dies_is_started_again_up_to_a_limit(tmp_path, start_launcher):
    launcher = start_launcher(CLUSTER="2x1", MAX_RESTARTS="1")
    launcher.wait_for_output("epoch 1 ")

    os.kill(launcher.pid_of("worker-1"), signal.SIGKILL)
    log = tmp_path / "worker-1.log"
    wait_for(lambda: log.read_text().count("ready: worker 1") == 2, 60)
    epochs = launcher.out.read_text().count("epoch")
    wait_for(lambda: launcher.out.read_text().count("epoch") > epochs + 5, 60)
    worker_died = f"warning: worker 1 died (killed by SIGKILL), log: {log}; "
    said = [f"{worker_died}it starts again in 1 s (restart 1 of 1)"]
    assert lines_of(launcher) == said

    os.kill(launcher.pid_of("worker-1"), signal.SIGKILL)
    said += [f"{worker_died}the other workers go on"]
    wait_for(lambda: lines_of(launcher) == said, 60)

    (chief,) = chiefs_of(launcher)
    os.kill(chief, signal.SIGKILL)
    said += ["error: the chief was killed by SIGKILL"]
    said += ["chief, servers and workers start again in 1 s (restart 1 of 1)"]
    wait_for(lambda: lines_of(launcher) == said, 60)
    wait_for(lambda: launcher.out.read_text().count("epoch 1 ") == 2, 120)

    os.kill(launcher.pid_of("ps-0"), signal.SIGKILL)
    assert launcher.process.wait(90) == program.EXIT_RESTART
    # Whichever of launcher and chief notices first.
    connection, server = sorted(lines_of(launcher)[len(said) :], key=lambda line: "ps 0" in line)
    assert server.startswith("error: ps 0 died (killed by SIGKILL)")
    assert connection.endswith("run the same command again to continue from the last checkpoint")
    assert "Traceback" not in launcher.err.read_text()
    assert launcher.everything_is_gone()


def lines_of(launcher):
    """What launcher and chief have said, without TensorFlow's notes: the example shows them all."""
    starts = ("error:", "warning:", "chief, ")
    return [line for line in launcher.err.read_text().splitlines() if line.startswith(starts)]


def chiefs_of(launcher):
    chiefs = []
    for pid in processes_with(MARK, launcher.mark):
        command = pathlib.Path("/proc", str(pid), "cmdline").read_bytes()
        if b"chief_example.py" in command and pid != launcher.process.pid:
            chiefs.append(pid)
    return chiefs
