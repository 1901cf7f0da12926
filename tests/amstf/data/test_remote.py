"""Data sets and checkpoints at s3://, with a real S3 server on loopback (moto)."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import boto3
import pytest

from amstf import files
from amstf.data import SampleWriter, set_image_store
from amstf.errors import SampleError
from launch.new_directory import new_directory
from tests.exports import FEATURES, write_dataset
from tests.helpers import CLICK_SCHEMA

ROOT = pathlib.Path(__file__).parents[3]
BUCKET = "clicks"


@pytest.fixture(scope="module")
def s3():
    """Environment of a process that is to see the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {
        "S3_ENDPOINT": url,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_REGION": "us-east-1",
    }
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.1)
            yield environment
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def uploaded(s3, tmp_path_factory):
    """A data set that was written here and copied there with another client."""
    samples = write_dataset(tmp_path_factory.mktemp("local") / "data")
    client = boto3.client(
        "s3",
        endpoint_url=s3["S3_ENDPOINT"],
        aws_access_key_id="none",
        aws_secret_access_key="none",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    for path in samples.directory.iterdir():
        for directory in ("data", "cut"):
            client.upload_file(str(path), BUCKET, f"{directory}/{path.name}")
    shard = samples.manifest.splits["test"][0].path
    client.put_object(Bucket=BUCKET, Key=f"cut/{shard}", Body=b"short")
    return samples


def run(module, arguments, s3, cache):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **s3, "AMSTF_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_a_data_set_at_s3_trains_with_checkpoints_at_s3(s3, uploaded, tmp_path):
    arguments = [f"s3://{BUCKET}/data", f"s3://{BUCKET}/checkpoints"]
    done = run("tests.amstf.data.remote_reader", arguments, s3, tmp_path)
    assert done.returncode == 7, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    batches = uploaded.dataset("test", 7, only_inputs=False)
    assert report["users"] == [int(user) for batch in batches for user in batch["user"]]
    assert report["store"] == report["again"] and report["store"].startswith(str(tmp_path))
    assert report["features"] == pytest.approx(FEATURES.sum().item(), rel=1e-4)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["images.h5"]
    assert report["bad"] is None
    names = [file.path for file in uploaded.manifest.splits["test"]]
    assert report["to_score"] == [f"s3://{BUCKET}/data/{name}" for name in names]
    absent = f"s3://{BUCKET}/data/absent/manifest.json does not exist, or its server cannot be"
    assert report["absent"].startswith(absent)
    assert report["checkpoints"] == ["ckpt-2"] and report["difference"] == 0


@pytest.mark.parametrize(
    ("path", "scheme", "message"),
    [
        ("cut", "s3", "has 5 bytes, manifest.json says"),
        ("x", "nowhere", r"no file system nowhere:// is known; known are .*s3"),
    ],
)
def test_what_is_wrong_there_is_said_in_one_line(s3, uploaded, tmp_path, path, scheme, message):
    arguments = [f"--dataset={scheme}://{BUCKET}/{path}", "--model=dicm", f"--out={tmp_path}/run"]
    done = run("launch.train", arguments, s3, tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert f"{scheme}://{BUCKET}/{path}" in done.stderr
    assert re.search(message, done.stderr), done.stderr


def test_data_sets_are_written_here_only():
    with pytest.raises(SampleError, match=r"s3://b/data: only a local directory .*`aws s3 cp"):
        SampleWriter("s3://b/data", CLICK_SCHEMA, "train")
    with pytest.raises(SampleError, match="only a local directory"):
        set_image_store("s3://b/data", "images.h5")
    with (
        pytest.raises(SampleError, match="--out s3://b/data: only a local directory"),
        new_directory("s3://b/data", what="a data set", marker="m", error=SampleError),
    ):
        pytest.fail("the block must not run")


def test_paths_of_other_file_systems_are_joined():
    assert files.join("s3://b/data/", "a") == "s3://b/data/a"
    assert files.join("s3://b/data", "s3://c/images.h5") == "s3://c/images.h5"
    assert files.join("s3://b/data", "/disk/images.h5") == "/disk/images.h5"
    assert files.join("data", "a") == "data/a"
