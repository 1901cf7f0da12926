import dataclasses
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from amstf.data import Samples, SampleWriter
from amstf.errors import SampleError
from amstf.schema import Field, Schema
from tests.amstf.data.conftest import SCHEMA, make_sample, write_samples


def test_files_have_the_names_of_shards_and_records_in_turn(tmp_path):
    samples = write_samples(tmp_path, count=8, num_shards=3)
    files = samples.manifest.splits["train"]
    assert [f.path for f in files] == [f"train-0000{k}-of-00003.tfrecord" for k in range(3)]
    assert [f.records for f in files] == [3, 3, 2]
    assert samples.num_records("train") == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "manifest.json",
        "schema.json",
        *(name for f in files for name in (f.path, f"{f.path}.offsets")),
    ]
    assert samples.schema == SCHEMA


def test_a_second_split_joins_the_manifest(samples):
    write_samples(samples.directory, "test", count=4)
    samples = Samples.open(samples.directory)
    assert samples.splits == ("train", "test")
    assert samples.num_records("test") == 4


def test_an_existing_split_is_refused(samples):
    with pytest.raises(SampleError, match="has a split 'train' already"):
        SampleWriter(samples.directory, SCHEMA, "train")


def test_another_schema_is_refused_and_the_difference_named(samples):
    fields = [
        dataclasses.replace(f, embedding_width=5) if f.name == "user" else f for f in SCHEMA.fields
    ]
    with pytest.raises(SampleError, match=r"field 'user' is .* there and .*embedding_width=5"):
        SampleWriter(samples.directory, Schema(tuple(fields), item=SCHEMA.item), "test")
    with pytest.raises(SampleError, match="field 'truth' is missing in the new one"):
        SampleWriter(samples.directory, SCHEMA.without(["truth"]), "test")
    with pytest.raises(SampleError, match="the order of the fields or the item differs"):
        SampleWriter(samples.directory, dataclasses.replace(SCHEMA, item=None), "test")
    assert Samples.open(samples.directory).splits == ("train",)


def test_an_exception_leaves_nothing_behind(tmp_path, samples):
    before = sorted(samples.directory.iterdir())
    with pytest.raises(RuntimeError), SampleWriter(samples.directory, SCHEMA, "test") as writer:
        writer.write(make_sample(1))
        raise RuntimeError
    assert sorted(samples.directory.iterdir()) == before
    with pytest.raises(RuntimeError), SampleWriter(tmp_path / "new", SCHEMA, "test") as writer:
        raise RuntimeError
    assert not (tmp_path / "new").exists()


def test_a_split_without_samples_is_refused_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(SampleError, match="no sample was written to split 'train'"),
        SampleWriter(tmp_path / "new", SCHEMA, "train"),
    ):
        pass
    assert not (tmp_path / "new").exists()


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from amstf.data import SampleWriter
from tests.amstf.data.conftest import SCHEMA, make_sample
writer = SampleWriter({directory!r}, SCHEMA, "train", num_shards=2)
for k in range(5000):
    writer.write(make_sample(k))
print("written", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_leaves_no_data_set_and_the_next_one_cleans_up(tmp_path, request):
    directory = tmp_path / "data"
    code = KILLED.format(root=str(request.config.rootpath), directory=str(directory))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"written\n"
            with pytest.raises(SampleError, match="another program is writing split 'train'"):
                SampleWriter(directory, SCHEMA, "train")
        finally:
            process.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(SampleError, match="does not exist"):
        Samples.open(directory)
    assert write_samples(directory, count=4, num_shards=1).num_records("train") == 4
    assert sorted(p.name for p in directory.iterdir()) == [
        "manifest.json",
        "schema.json",
        "train-00000-of-00001.tfrecord",
        "train-00000-of-00001.tfrecord.offsets",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": None}, "field 'user': got nothing"),
        ({"user": "seven"}, r"field 'user': got 'seven' \(str\), wanted a whole number"),
        ({"user": 1.5}, r"field 'user': got 1.5 \(float\), wanted a whole number"),
        ({"user": [1]}, r"field 'user': got \[1\] \(list\), wanted one id"),
        ({"user": 2**63}, "field 'user': got 9223372036854775808, which does not fit"),
        ({"city": 3}, r"field 'city': got 3 \(int\), wanted a string"),
        ({"words": "w"}, r"field 'words': got 'w' \(str\), wanted a list of ids"),
        ({"words": ["a", 1]}, r"field 'words': got 1 \(int\), wanted a string"),
        ({"topics": 3}, r"field 'topics': got 3 \(int\), wanted a list of ids"),
        ({"topics": [[1], [2]]}, r"field 'topics': got \[1\] \(list\), wanted a whole number"),
        ({"topics": np.array([0.5])}, "field 'topics': got float64 values, wanted whole numbers"),
        ({"topics": np.zeros((2, 2), int)}, "field 'topics': got .*, wanted a list of ids"),
        ({"tags.weight": [1.0, 2.0]}, "field 'tags': got 1 ids and 2 weights"),
        ({"tags.weight": None}, "field 'tags.weight': got nothing"),
        ({"tags.weight": [float("inf")]}, "field 'tags.weight': got inf, wanted a finite float32"),
        ({"numbers": [1.0]}, "field 'numbers': got 1 values, wanted 2"),
        ({"numbers": "1 2"}, r"field 'numbers': got '1 2' \(str\), wanted a number"),
        ({"numbers": [1.0, None]}, "field 'numbers': got .*, wanted a number"),
        ({"numbers": [float("nan"), 1.0]}, "field 'numbers': got nan"),
        ({"click": 1e39}, r"field 'click': got 1e\+39"),
        ({"click": [0, 1]}, "field 'click': got 2 values, wanted 1"),
        ({"ad_image": -2}, "field 'ad_image': got image id -2; ids start at 0"),
        ({"behaviour_images": [4, -7]}, "field 'behaviour_images': got image id -7"),
        ({"group": 4}, "field 'group' reads its values from 'user'"),
        ({"age": 4}, "the schema has no field 'age'; it stores ad_image, behaviour_images"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, changes, message):
    with (
        pytest.raises(SampleError, match=f"^sample 1 of split 'train': {message}"),
        SampleWriter(tmp_path / "new", SCHEMA, "train") as writer,
    ):
        writer.write(make_sample(0))
        writer.write(make_sample(1, **changes))


def test_numpy_values_bytes_and_booleans_are_taken(tmp_path):
    with SampleWriter(tmp_path, SCHEMA, "train", num_shards=1) as writer:
        writer.write(
            make_sample(
                1,
                user=np.int32(7),
                city=b"x",
                topics=np.array([1, 2], np.int16),
                numbers=np.array([1, 2], np.float16),
                click=True,
                truth=np.float32(0.5),
                tags=(),
                **{"tags.weight": np.zeros(0)},
            )
        )
    (batch,) = Samples.open(tmp_path).dataset("train", 1, only_inputs=False)
    assert batch["user"].numpy() == [7]
    assert batch["city"].numpy() == [b"x"]
    assert batch["topics"].numpy().tolist() == [[1, 2]]
    assert batch["numbers"].numpy().tolist() == [[1.0, 2.0]]
    assert batch["click"].numpy().tolist() == [[1.0]]
    assert batch["tags"].shape == (1, 0)


def test_images_may_be_left_out(tmp_path):
    sample = make_sample(3)
    del sample["ad_image"], sample["behaviour_images"]
    with SampleWriter(tmp_path, SCHEMA, "train", num_shards=1) as writer:
        writer.write(sample)
        writer.write(make_sample(3, ad_image=None))
        writer.write(make_sample(3, ad_image=-1))
    (batch,) = Samples.open(tmp_path).dataset("train", 9, only_inputs=False)
    assert batch["ad_image"].numpy().tolist() == [-1, -1, -1]
    assert batch["behaviour_images"].numpy().tolist()[0] == [-1, -1, -1]


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(SampleError, match=r"split is '../x'; use letters"):
        SampleWriter(tmp_path, SCHEMA, "../x")
    with pytest.raises(SampleError, match="num_shards is 0; it must be at least 1"):
        SampleWriter(tmp_path, SCHEMA, "train", num_shards=0)


def test_a_closed_writer_refuses_samples(tmp_path):
    schema = Schema((Field("click", "label"),))
    writer = SampleWriter(tmp_path, schema, "train", num_shards=1)
    writer.write({"click": 1})
    writer.close()
    writer.close()
    with pytest.raises(SampleError, match="the writer of split 'train' is closed"):
        writer.write({"click": 1})
    assert Samples.open(tmp_path).num_records("train") == 1
