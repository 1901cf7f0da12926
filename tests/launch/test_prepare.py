"""The program as a person runs it."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from amstf.data import Samples

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--users=20", "--items=40", "--impressions=600", "--image_width=8", "--num_shards=2"]


def run(*arguments):
    command = [sys.executable, "-m", "launch.prepare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepare") / "data"
    return out, run("synthetic", f"--out={out}", *SMALL)


def test_synthetic_ends_with_a_summary_and_no_noise(made):
    out, result = made
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{out}: synthetic" in result.stdout
    assert "best reachable on test, new items" in result.stdout
    assert "images: 40 of 8 features, float16" in result.stdout
    samples = Samples.open(out, checksums=True)
    assert samples.num_records("train") == 462
    assert len(samples.files("train")) == 2
    assert [p.name for p in out.parent.iterdir()] == ["data"]


def test_groups_are_told(tmp_path):
    grouped = run(
        "synthetic", f"--out={tmp_path}/d", *SMALL, "--page_size=4", "--group_by_user",
        "--group_size=6",
    )  # fmt: skip
    assert (grouped.returncode, grouped.stderr) == (0, "")
    samples = Samples.open(tmp_path / "d")
    groups = samples.num_records("train")
    assert 77 <= groups <= 120  # At most six in one, at least a page but for those that were cut.
    assert "train              462" in grouped.stdout
    assert f"in {groups} groups, {462 / groups:.1f} samples each" in grouped.stdout


def test_an_existing_data_set_needs_overwrite(made):
    out, _ = made
    before = Samples.open(out).manifest
    result = run("synthetic", f"--out={out}", *SMALL)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "--overwrite" in result.stderr
    assert Samples.open(out).manifest == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["taobao", "--out=x"], "error: say which data set to make: .*; got taobao"),
        (["synthetic"], "error: flag --out is missing"),
        (["synthetic", "--out=x", "--users=0"], "error: --users is 0; it must be at least 1"),
        (["synthetic", "--out=x", "--group_size=9"], "error: --group_size has a meaning with --gr"),
        (["movielens", "--out=x"], "error: movielens needs --ratings"),
        (["crossmedia", "--out=x"], "error: crossmedia needs --samples"),
        (["tiktok", "--out=x", "--render=y"], "error: --render draws the items of synthetic only"),
        (
            ["criteo", "--out=x"],
            "error: criteo needs --source; see python -m launch.prepare --help",
        ),
        (["avazu", "--out=x", "--source=f", "--pca=3"], "error: --pca has no meaning for avazu"),
        (
            ["criteo", "--out=x", "--source=f", "--dynamic", "--min_count=3"],
            "error: --min_count has no meaning with --dynamic, by which each value has a row of",
        ),
        (["criteo", "--out=x", "--source=docs"], "error: docs is not a file; --source names the"),
        (["synthetic", "--out=x", "--render=y", "--pca=3"], "error: --pca is about features of im"),
        (
            ["movielens", "--out=x", "--ratings=nowhere", "--features=f.h5"],
            "error: nowhere/u.data cannot be read",
        ),
    ],
)
def test_wrong_flags_are_one_line_and_leave_nothing(tmp_path, arguments, message):
    arguments = [a.replace("--out=x", f"--out={tmp_path / 'x'}") for a in arguments]
    result = run(*arguments)
    assert result.returncode == 2
    assert re.match(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_help_describes_both_kinds():
    result = run("--help")
    assert result.returncode == 0
    for text in ("synthetic", "movielens", "--ratings", "--new_item_impressions", "4096"):
        assert text in result.stdout


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_data_set(tmp_path, kill):
    out = tmp_path / "data"
    command = [sys.executable, "-m", "launch.prepare", "synthetic", f"--out={out}"]
    with subprocess.Popen([*command, "--impressions=3000000"], cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".data.preparing-*/images.h5")):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
        finally:
            process.send_signal(kill)
        process.wait(60)
    assert not out.exists()
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert not list(tmp_path.iterdir())
