"""Fuzz of what is parsed from text: a good result or one clear line, whatever the text."""

import json
import pathlib
import tempfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amstf.config import AmsConfig
from amstf.data import Manifest, Samples, ShardFile, feature_spec
from amstf.errors import AmstfError, ConfigError, SampleError, SchemaError
from amstf.schema import Schema
from launch import flag_values, tf_config
from launch.datasets import movielens
from launch.json_files import read_json
from launch.kubernetes import plain
from launch.kubernetes.job_config import JobConfig
from launch.local_cluster import parse_cluster
from launch.run_directory import RunConfig, RunDirectory
from launch.step_logger import History
from launch.store_servers import servers_of
from tests.amstf.data.conftest import SCHEMA, write_samples
from tests.hostile.strategies import (
    broken_bytes,
    broken_json,
    check_message,
    examples,
    good_or_refused,
)

EXAMPLES = examples(300)

SCHEMA_DOCUMENT = json.loads(SCHEMA.to_json())
MANIFEST_DOCUMENT = json.loads(
    Manifest(
        {"train": (ShardFile("a", 2, 10, "01234567"), ShardFile("b", 1, 7, "89abcdef"))},
        {"images": "images.h5"},
        {"best": {"auc": 0.75}},
    ).to_json()
)
TF_CONFIG_DOCUMENT = {
    "cluster": {"chief": ["c:1"], "worker": ["w:1", "[::1]:2"], "ps": ["p:1"]},
    "task": {"type": "worker", "index": 1},
}
RUN_DOCUMENT = json.loads(
    RunConfig(
        dataset="data",
        model="dicm",
        hidden=(8, 4),
        dropout=0.1,
        tower=(8, 4),
        tower_dropout=0.0,
        aggregator="sum",
        missing="error",
        batch_size=32,
        epochs=2,
        learning_rate=0.001,
        seed=0,
        patience=0,
        ams=AmsConfig(image_servers=(0, 1)),
    ).to_json()
)


@EXAMPLES
@given(broken_json(SCHEMA_DOCUMENT))
def test_schema(text):
    schema = good_or_refused(lambda: Schema.from_json(text, "FILE"), "FILE")
    if schema is not None:
        assert Schema.from_json(schema.to_json()) == schema
        feature_spec(schema.fields)


@EXAMPLES
@given(broken_json(MANIFEST_DOCUMENT))
def test_manifest(text):
    manifest = good_or_refused(lambda: Manifest.from_json(text, "FILE"), "FILE")
    if manifest is not None:
        # As text: a NaN among the free facts is not equal to itself.
        assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()
        # A path that leaves the directory is refused, so that each of these is merely missing.
        if manifest.splits:
            with pytest.raises(SampleError, match="missing"):
                manifest.verify("/nonexistent")
        for split in manifest.splits:
            assert manifest.records(split) >= 0 and manifest.files(split)


@EXAMPLES
@given(broken_json(TF_CONFIG_DOCUMENT))
def test_tf_config(text):
    role = good_or_refused(lambda: tf_config.parse(text), "TF_CONFIG")
    if role is not None:
        assert role.port is None or 0 < role.port < 65536
        assert tf_config.parse(tf_config.build(role.cluster, role.type, role.index)) == role


@EXAMPLES
@example(json.dumps({**RUN_DOCUMENT, "interaction": None}))
@example(json.dumps({**RUN_DOCUMENT, "interaction": [None]}))
@example(json.dumps({**RUN_DOCUMENT, "admission": None}))
@example(json.dumps({**RUN_DOCUMENT, "id_dropout_fields": 3}))
@given(broken_json(RUN_DOCUMENT))
def test_run_configuration(text):
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(directory)
        run.config.write_text(text, encoding="utf-8", errors="surrogatepass")
        config = good_or_refused(run.read_config, str(run.config))
        if config is not None:
            run.config.write_text(config.to_json())
            assert run.read_config() == config


@pytest.mark.parametrize("name", ["manifest.json", "schema.json"])
def test_bytes_of_a_data_set(name, tmp_path):
    samples = write_samples(tmp_path / "data")
    path = samples.directory / name
    content = path.read_bytes()

    @EXAMPLES
    @given(broken_bytes(content))
    def check(changed):
        path.write_bytes(changed)
        good_or_refused(lambda: Samples.open(samples.directory), str(samples.directory))

    check()


JOB_DOCUMENT = {
    "name": "clicks",
    "image": "registry/amstf:1",
    "arguments": ["--dataset=/data/d", "--model=dicm", "--out=/data/r"],
    "claim": "data",
    "workers": 2,
    "cpu": "500m",
    "evaluator": True,
}


@EXAMPLES
@given(broken_json(JOB_DOCUMENT))
def test_job_of_kubernetes(text):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "job.json")
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        job = good_or_refused(lambda: JobConfig.load(path), str(path))
        assert job is None or json.dumps(plain.render(job))


HISTORY = b"step,seconds,loss\n1,0.5,0.7\n2,1,\n30,1.5,nan\n"


@EXAMPLES
@given(broken_bytes(HISTORY))
@example(HISTORY[:-6])
@example(b"step\n1,2\n")
def test_history(content):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "history.csv")
        path.write_bytes(content)
        history = good_or_refused(lambda: History(path), str(path))
        if history is not None:
            steps, losses = history.column("loss")
            assert len(steps) == len(losses) and set(history.validations()) == {
                "best_validation",
                "last_validation",
            }


@EXAMPLES
@given(broken_json({"ended": "finished", "config": {"seed": 1}, "auc": float("nan")}))
def test_report(text):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "report.json")
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        report = good_or_refused(lambda: read_json(path, "a run"), str(path))
        assert report is None or json.loads(json.dumps(report)).keys() == report.keys()


CLUSTERS = st.one_of(st.from_regex(r"\s?\d{0,4}x\d{0,4}\s?"), st.text(max_size=8))


@EXAMPLES
@given(CLUSTERS)
def test_cluster_flag(text):
    sizes = good_or_refused(lambda: parse_cluster(text), "--cluster")
    assert sizes is None or (0 < sizes[0] < 1000 and 0 < sizes[1] < 1000)


NUMBERS = st.lists(st.one_of(st.integers().map(str), st.text(max_size=4)), max_size=4)


@EXAMPLES
@given(NUMBERS)
@example(["9" * 5000])
@example(["²"])
@example(["a:1", "a:2", "b:1"])
def test_list_flags(values):
    widths = good_or_refused(lambda: flag_values.widths("hidden", values), "--hidden")
    assert widths is None or all(0 < width <= 1 << 20 for width in widths)
    servers = good_or_refused(
        lambda: AmsConfig(image_servers=flag_values.image_servers(values)), "image_servers"
    )
    assert servers is None or len(servers.image_servers) == len(values)
    of_stores = good_or_refused(lambda: servers_of(values), "store_servers")
    assert of_stores is None or sum(map(len, of_stores.values())) == len(values)


MOVIELENS = {
    "u.data": "1\t1\t5\t100\n1\t2\t3\t200\n2\t1\t4\t150\n",
    "u.user": "1|24|M|writer|85711\n2|53|F|other|94043\n",
    "u.item": "".join(
        f"{k}|Caf\xe9\x85 {k} (1995)|01-Jan-1995||http://x/{k}{'|0' * 18}|1\n" for k in (1, 2)
    ),
}


@pytest.mark.parametrize("name", MOVIELENS)
def test_movielens(name, tmp_path):
    for file, text in MOVIELENS.items():
        (tmp_path / file).write_text(text, encoding="latin-1")

    def read():
        log = movielens.read_ratings(tmp_path)
        users, movies = movielens.read_users(tmp_path), movielens.read_movies(tmp_path)
        movielens._check_known(log, users, movies)
        movielens.make_schema(users, movies)
        return list(movielens.make_samples(log, users, movies, {1}))

    assert len(read()) == 3

    @EXAMPLES
    @given(broken_bytes(MOVIELENS[name].encode("latin-1")))
    @example(MOVIELENS[name].replace("1", "²").encode("latin-1"))
    @example(b"")
    def check(content):
        (tmp_path / name).write_bytes(content)
        good_or_refused(read, str(tmp_path), "u.data")

    check()


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda d: Samples.open(d), "manifest.json"),
        (lambda d: Schema.load(d), "schema.json"),
        (lambda d: RunDirectory(d).read_config(), "config.json"),
        (lambda d: movielens.read_users(d), "u.user"),
    ],
)
def test_a_device_in_the_place_of_a_file_is_not_read(read, name, tmp_path):
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(AmstfError, match=f"{name}.* is not a regular file") as caught:
        read(tmp_path)
    check_message(str(caught.value), name)


def test_a_file_without_end_is_not_read(tmp_path):
    with open(tmp_path / "schema.json", "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(SchemaError, match=r"schema.json has 1,099,511,627,776 bytes, which is too"):
        Schema.load(tmp_path)


def test_a_run_is_not_written_elsewhere():
    with pytest.raises(ConfigError, match="s3://b/run is on another file system"):
        RunDirectory("s3://b/run")


def test_errors_show_control_characters_and_stay_short():
    assert str(ConfigError("a\nb\x1b[2J\udc80é")) == "a\\nb\\x1b[2J\\udc80é"
    message = str(ConfigError("x" * 1_000_000 + "end"))
    assert len(message) < 4_100 and message.endswith("end") and "996,003 characters" in message
    assert str(ConfigError("its log ends with:", "one", "two\r")) == (
        "its log ends with:\n    one\n    two\\r"
    )


def test_a_path_that_leaves_the_data_set_is_refused(tmp_path):
    samples = write_samples(tmp_path / "data")
    manifest = pathlib.Path(samples.directory, "manifest.json")
    text = manifest.read_text()
    for path in ("/dev/zero", "../data/train-00000-of-00003.tfrecord", "..", "s3://b/x"):
        manifest.write_text(text.replace("train-00000-of-00003.tfrecord", path))
        with pytest.raises(SampleError, match="not a name in the directory"):
            Samples.open(samples.directory)
