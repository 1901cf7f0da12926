"""CrossMedia's files: what is read of them, and what is said about broken ones."""

import gzip

import numpy as np
import pytest

from amstf.data import Samples
from amstf.errors import AmstfError, ConfigError, SampleError, StoreError
from amstf.schema import Field
from amstf.store import ImageStore
from launch.datasets import crossmedia, feature_map
from launch.datasets.columns import Rows
from launch.datasets.crossmedia import CrossMediaConfig
from launch.datasets.crossmedia_fields import parse_fields
from launch.datasets.crossmedia_images import write_store
from launch.datasets.crossmedia_text import parse
from tests.helpers import read_samples
from tests.launch.datasets.crossmedia_files import (
    random_images,
    random_lines,
    write_images,
    write_lines,
)

EXAMPLE = (
    "skey0|gkey0|user0@206:0.14,851:0.31;user_img0@386:0.06,834:0.92|ad0@0.96;ad_img0@919:0.45"
    "|0.04|1545000000"
)
IMAGES = {386: [1.0, 2.0], 834: [3.0, 4.0], 919: [5.0, 6.0], 7: [7.0, 8.0]}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "imgs", IMAGES)


def line(group=0, user="user0@1:0.5", ad="ad0@0.5", labels="1", time=1):
    return f"s|g{group}|{user}|{ad}|{labels}|{time}"


def many(*special):
    """Enough good lines that no split is empty, after the special ones."""
    return [*special, *(line(k, labels=str(k % 2), time=k) for k in range(100, 200))]


def prepare(tmp_path, lines, images=None, config=None, **arguments):
    path = write_lines(tmp_path / "data.txt", lines)
    config = config or CrossMediaConfig()
    crossmedia.prepare(config, [path], images, tmp_path / "out", num_shards=1, **arguments)
    return Samples.open(tmp_path / "out")


def everything(samples):
    return [s for split in samples.splits for s in read_samples(samples.directory, split)]


def test_the_example_of_the_reference(tmp_path, prefix):
    lines = [EXAMPLE.replace("gkey0", f"gkey{k}") for k in range(60)]
    config = CrossMediaConfig(label_threshold=0.03, image_ids=True)
    samples = prepare(tmp_path, lines, prefix, config)
    table = {"hash_size": 1 << 17, "embedding_width": 16}
    assert samples.schema.fields == (
        Field("user0", "weighted_sparse", side="user", is_list=True, **table),
        Field("user_img0", "image", side="user", is_list=True, store="user_images"),
        Field("user_img0_id", "sparse", side="user", is_list=True, source="user_img0", **table),
        Field("ad0", "dense", side="ad"),
        Field("ad_img0", "image", side="ad", store="ad_images"),
        Field("ad_img0_id", "sparse", side="ad", source="ad_img0", **table),
        Field("click", "label"),
        Field("gkey", "group", side="user", dtype="string"),
    )
    assert samples.schema.item == "ad_img0"
    got = everything(samples)
    assert sorted(s["gkey"] for s in got) == sorted(f"gkey{k}".encode() for k in range(60))
    assert got[0]["user0"].tolist() == [206, 851]
    np.testing.assert_allclose(got[0]["user0.weight"], [0.14, 0.31])
    assert (got[0]["user_img0"].tolist(), got[0]["ad_img0"]) == ([386, 834], 919)
    np.testing.assert_allclose([got[0]["ad0"][0], got[0]["click"][0]], [0.96, 1.0])
    assert samples.manifest.images == {"user_images": "images.h5", "ad_images": "images.h5"}
    store = ImageStore.open(samples.image_store_path("ad_images"))
    np.testing.assert_array_equal(store.read(list(IMAGES)), list(IMAGES.values()))


def test_dynamic_ids_are_kept_as_they_are(tmp_path, prefix):
    lines = [EXAMPLE.replace("gkey0", f"gkey{k}") for k in range(60)]
    config = CrossMediaConfig(label_threshold=0.03, image_ids=True, dynamic=True)
    samples = prepare(tmp_path, lines, prefix, config)
    dynamic = [field.name for field in samples.schema.fields if field.dynamic]
    assert dynamic == ["user0", "user_img0_id", "ad_img0_id"]
    assert all(samples.schema[name].embedding_width == 16 for name in dynamic)
    assert everything(samples)[0]["user0"].tolist() == [206, 851]


def test_groups_stay_together_and_nothing_is_lost(tmp_path, prefix):
    images = list(IMAGES)
    lines = random_lines(120, images)
    samples = prepare(tmp_path, lines, prefix, group_size=32)
    groups = {}
    for split in samples.splits:
        assert samples.is_grouped(split)
        for sample in read_samples(samples.directory, split):
            groups.setdefault(sample["gkey"].decode(), set()).add(split)
    # One reading of a group is a batch of its impressions, of which the helper shows the first.
    assert sorted(groups) == sorted(f"gkey{k}" for k in range(120))
    assert all(len(splits) == 1 for splits in groups.values())
    assert sum(map(samples.num_impressions, samples.splits)) == len(lines)
    assert sum(map(samples.num_records, samples.splits)) == 120


def test_the_last_groups_are_held_out(tmp_path):
    samples = prepare(tmp_path, many(), config=CrossMediaConfig(holdout="last"))
    counts = [samples.num_impressions(split) for split in ("train", "validation", "test")]
    assert counts == [80, 10, 10]
    keys = [s["gkey"] for s in read_samples(samples.directory, "test")]
    assert keys == [f"g{k}".encode() for k in range(190, 200)]


def test_what_is_not_written_may_be_left_out_or_said(tmp_path):
    # A weight of 1, a feature without values, and whole numbers that are ids or floats.
    special = line(user="user0@5,6:2;user1@;user2@3", ad="ad0@1;ad1@1,2")
    others = [line(k, "user0@1:1;user2@4,5", "ad0@2;ad1@3,4", str(k % 2)) for k in range(60)]
    samples = prepare(tmp_path, [special, *others])
    kinds = {f.name: f.kind for f in samples.schema.inputs}
    sparse, dense = "weighted_sparse", "dense"
    assert kinds == {"user0": sparse, "user1": sparse, "user2": sparse, "ad0": dense, "ad1": dense}
    first = next(s for s in everything(samples) if s["user0"].tolist() == [5, 6])
    assert first["user0.weight"].tolist() == [1, 2] and first["user1"].size == 0
    assert first["ad1"].tolist() == [1, 2]

    config = CrossMediaConfig(fields=parse_fields(["ad0:sparse", "user0"]))
    path = tmp_path / "again"
    path.mkdir()
    samples = prepare(path, [special, *others], config=config)
    assert [f.name for f in samples.schema.inputs] == ["user0", "ad0"]
    assert samples.schema["ad0"].kind == sparse


def test_several_files_and_labels_and_gzip(tmp_path):
    lines = [line(k, labels=f"{k % 2},0.25,0.75") for k in range(60)]
    first = write_lines(tmp_path / "a.txt", lines[:30])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\r\n".join(lines[30:]).encode()))
    config = CrossMediaConfig(label_names=("click", "cart", "buy"), label_threshold=0.5)
    files = [first, str(tmp_path / "b.txt.gz")]
    counts = crossmedia.prepare(config, files, None, tmp_path / "out", num_shards=1)
    samples = Samples.open(tmp_path / "out")
    assert sum(counts.values()) == 60
    labels = {(s["click"][0], s["cart"][0], s["buy"][0]) for s in everything(samples)}
    assert labels == {(0, 0, 1), (1, 0, 1)}


def test_images_that_are_not_there_are_counted(tmp_path, prefix):
    special = line(user="user0@1:1;user_img0@7:1,55:1,66:1", ad="ad0@1;ad_img0@")
    samples = prepare(tmp_path, many(special), prefix)
    assert samples.manifest.info["missing_images"] == {"count": 2, "among": 55}
    assert {s["ad_img0"].item() for s in everything(samples)} == {-1}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "got an empty line, wanted 6: skey|gkey|USER"),
        ("a|b|c", "got 3 parts between '|', wanted 6"),
        (line() + "|", "got 7 parts"),
        (line().replace("g0", ""), "the group key is empty"),
        (line(user="user0"), "got the feature 'user0', wanted name@value"),
        (line(user="user0@1:1;"), "got the feature '', wanted name@value"),
        (line(user="user0@1;user0@2"), "feature 'user0' stands twice"),
        (line(ad="ad0@1;user0@2"), "feature 'user0' is both USER's and AD's"),
        (line(user="ad0@1", ad=""), "feature 'ad0' is USER's here and AD's before"),
        (line(user="user0@1:x"), "feature 'user0': got '1:x', wanted id:weight"),
        (line(user="user0@1:0.5,2:"), "feature 'user0': got '2:', wanted id:weight"),
        (line(user="user0@-1:0.5"), "feature 'user0': got the id -1, which stands for none"),
        (line(user="user0@9223372036854775808:1"), "does not fit into 64 bits"),
        (line(user="user0@1:1e999"), "got inf, wanted a finite float32"),
        (line(user="user0@0.5"), "feature 'user0' is numbers, and ids with weights in"),
        (line(ad="ad0@0.5,1"), "feature 'ad0' has another number of values than the 1 before"),
        (line(ad="ad0@x"), "feature 'ad0': got 'x', wanted a number such as 0.96"),
        (line(ad=""), "feature 'ad0': got nothing, wanted 1 numbers"),
        (line(labels="0.5"), "a label is 0.5, wanted 0 or 1; --label_threshold"),
        (line(labels="1,0"), "got 2 labels, the lines before have 1"),
        (line(labels="nan"), "labels are 'nan', wanted numbers"),
        (line(time="1.5"), "the timestamp is '1.5', wanted a whole number"),
        (line().replace("user0", "\udcff"), "is no UTF-8"),
    ],
)
def test_a_broken_line_is_named(tmp_path, bad, message):
    path = tmp_path / "data.txt"
    lines = [*many()[:3], bad, *many()[3:]]
    path.write_bytes("".join(one + "\n" for one in lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(SampleError) as caught:
        crossmedia.prepare(CrossMediaConfig(), [str(path)], None, tmp_path / "out")
    assert str(caught.value).startswith(f"{path}, line 4: "), caught.value
    assert message in str(caught.value)
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"fields": {"user7": ""}}, "--fields: no line has user7; features are user0, ad0"),
        ({"fields": {"ad0": "image"}}, "--fields=ad0:image needs --images"),
        ({"label_names": ("a", "b")}, "--label_names has 2 names, and a line 1 labels"),
        ({"label_names": ("ad0",)}, "--label_names: a feature is named 'ad0' too"),
    ],
)
def test_wishes_that_the_lines_do_not_have(tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path, many(), config=CrossMediaConfig(**flags))


def test_what_cannot_be_held_out_or_found(tmp_path, prefix):
    with pytest.raises(
        SampleError, match=r"of 9 samples none is in validation and test; .*=random"
    ):
        prepare(tmp_path, [line()] * 9, config=CrossMediaConfig(holdout="last"))
    with pytest.raises(ConfigError, match="no feature is of images by its name; say which"):
        prepare(tmp_path, many(), prefix)
    with pytest.raises(SampleError, match="line 1: feature 'ad_img0' has several images"):
        prepare(tmp_path, many(line(ad="ad0@1;ad_img0@7:1,386:1")), prefix)
    with pytest.raises(SampleError, match=r"none\.txt cannot be read .*--samples names files"):
        crossmedia.prepare(CrossMediaConfig(), ["none.txt"], None, tmp_path / "out")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 99)[:-9])
    with pytest.raises(SampleError, match=r"cut\.gz, line 1 cannot be read"):
        crossmedia.prepare(CrossMediaConfig(), [str(tmp_path / "cut.gz")], None, tmp_path / "out")


def test_a_line_may_be_long_but_not_endless(tmp_path, monkeypatch):
    value = "1:1," * 99_999 + "1:1"
    assert parse(f"s|g|u@{value}||1|1".encode(), Rows("x"), 0).user == {"u": value}
    monkeypatch.setattr("launch.datasets.crossmedia_text.MAX_LINE_BYTES", 50)
    with pytest.raises(SampleError, match="line 2: longer than 50 bytes"):
        prepare(tmp_path, [line(), line(user="user0@" + "1:1," * 99 + "1:1")])


@pytest.mark.parametrize("width", [1, 2, 300, 4096])
def test_the_width_of_images_is_found(tmp_path, width):
    images = random_images(5, width)
    images[1024] = np.zeros(width)  # What a zero begins looks like an id of bucket 0.
    images[2048] = np.zeros(width)
    prefix = write_images(tmp_path / "imgs", images)
    store = write_store(prefix, tmp_path / "a.h5")
    assert store.width == width
    want = np.array(list(images.values()), np.float32)
    np.testing.assert_array_equal(store.read(list(images)), want)


def test_broken_image_files_are_named(tmp_path):
    prefix = write_images(tmp_path / "imgs", IMAGES)

    def refused(message, width=None):
        with pytest.raises(StoreError, match=message):
            write_store(prefix, tmp_path / "a.h5", width)
        assert not (tmp_path / "a.h5").exists()

    refused("imgs.7 has 16 bytes, no multiple of 20, .*--image_width is another", width=3)
    path = tmp_path / "imgs.7"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    refused("imgs.7 and the other files are not records")
    path.write_bytes(good + np.array(8, "<i8").tobytes() + bytes(8))
    refused("imgs.7, record 2: image id 8 does not belong there; .*= 7", width=2)
    path.write_bytes(good + good)
    refused("1 image ids were written twice, among them 7", width=2)
    path.write_bytes(good[:8] + np.array([1, np.nan], "<f4").tobytes())
    refused("imgs.7: the features of image id 7 are not all finite", width=2)
    path.unlink()
    refused("imgs.7 cannot be read .*an empty one for a bucket without images")
    for file in tmp_path.glob("imgs.*"):
        file.write_bytes(b"")
    path.write_bytes(b"")
    refused("imgs.0 and the other 1,023 files hold no image")


def test_one_file_of_two_stores_is_mapped_once(tmp_path, prefix):
    special = [line(k, "user_img0@7:1,386:1", "ad_img0@834:1", str(k % 2)) for k in range(60)]
    samples = prepare(tmp_path, special, prefix)
    feature_map.apply(samples.directory, standardise=True)
    again = Samples.open(samples.directory)
    assert set(again.manifest.images.values()) == {"images.h5"}
    store = ImageStore.open(again.image_store_path("ad_images"))
    assert store.attributes["fitted_on"] == "3 images that training shows"
    # Of 7, 386 and 834, which either side shows.
    shown = np.array([[7.0, 8.0], [1.0, 2.0], [3.0, 4.0]])
    want = (shown - shown.mean(axis=0)) / shown.std(axis=0)
    np.testing.assert_allclose(store.read([7, 386, 834]), want, rtol=1e-6)


def test_errors_are_those_of_the_project():
    for text in ("a:b", "a:", "", "a:sparse:x"):
        with pytest.raises(AmstfError, match="--fields: got"):
            parse_fields(["a", text])
