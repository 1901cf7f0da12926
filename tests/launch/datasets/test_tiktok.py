import os
import pathlib

import numpy as np
import pytest

from amstf.data import Samples
from amstf.errors import ConfigError, SampleError
from amstf.store import ImageStore
from launch.datasets import tiktok
from launch.datasets.tiktok import Interactions, TiktokConfig
from tests.helpers import read_samples

USERS, ITEMS = 12, 20


def write_source(directory, **changes):
    """Each user clicked three items, each item was clicked at least once."""
    user = np.repeat(np.arange(USERS), 3)
    item = np.concatenate([(k * 3 + np.array([0, 1, 7])) % ITEMS for k in range(USERS)])
    arrays = {
        "user": user.astype(np.int32),
        "item": item.astype(np.int32),
        "feat": np.outer(np.arange(ITEMS), [1, 2, 4]).astype(np.float16),
        "audio": np.outer(np.arange(ITEMS), [-1, 1]).astype(np.float16),
        **changes,
    }
    directory.mkdir(exist_ok=True)
    np.savez(directory / "tiktok.npz", **{k: v for k, v in arrays.items() if v is not None})
    return directory


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def impressions_of(directory, split):
    """Returns the samples of a split as lists of a click and its negatives."""
    groups = []
    for row in read_samples(directory, split):
        if row["click"] == 1:
            groups.append([])
        groups[-1].append(row)
    return groups


def check(directory, log, behaviours):
    """Checks what must hold of any split; returns the items that each split clicks."""
    clicked = {(u, i) for u, i in zip(log.user.tolist(), log.item.tolist(), strict=True)}
    groups = {split: impressions_of(directory, split) for split in tiktok.SPLITS}
    items = {s: {int(g[0]["video"]) for g in groups[s]} for s in groups}
    pairs = {s: {(int(g[0]["user"]), int(g[0]["video"])) for g in groups[s]} for s in groups}
    assert sum(map(len, groups.values())) == len(clicked)
    assert set.union(*pairs.values()) == clicked
    for split, of_split in groups.items():
        for click, *negatives in of_split:
            user, video = int(click["user"]), int(click["video"])
            for negative in negatives:
                assert (negative["user"], negative["click"]) == (user, 0)
                assert (user, int(negative["video"])) not in clicked
                assert int(negative["video"]) in items[split]
                # Else how many there are would tell the click.
                assert list(negative["behaviour_videos"]) == list(click["behaviour_videos"])
            history = click["behaviour_videos"].tolist()
            own = {item for u, item in pairs["train"] if u == user} - {video}
            assert set(history) <= own and len(history) == min(len(own), behaviours)
            assert click["behaviours"].tolist() == history and click["group"] == user
            for row in (click, *negatives):
                known = int(row["video"]) in items["train"]
                assert row["item"] == (row["video"] if known else log.num_items)
    return groups, items


@pytest.mark.parametrize("split", tiktok.SPLIT_KINDS)
def test_samples_of_a_small_source(tmp_path, source, split):
    config = TiktokConfig(split, behaviours=2, seed=4)
    out = tmp_path / "data"
    counts = tiktok.prepare(config, source, out, num_shards=1)
    groups, items = check(out, tiktok.read(source), behaviours=2)
    for name, of_split in groups.items():
        assert counts[name] == sum(map(len, of_split)) == Samples.open(out).num_records(name)
    if split == "new_items":
        assert len(items["test"]) == 4 and len(items["validation"]) == 2
        assert not items["train"] & (items["test"] | items["validation"])
        assert not items["test"] & items["validation"]
    else:
        # 36 clicks: 7 of the test, 4 of the validation, 25 to train on.
        assert [len(groups[s]) for s in tiktok.SPLITS] == [25, 4, 7]
    again = tiktok.prepare(config, source, tmp_path / "again", num_shards=1)
    assert again == counts
    one, two = (Samples.open(d).manifest.splits for d in (out, tmp_path / "again"))
    assert one == two
    other = TiktokConfig(split, behaviours=2, seed=5)
    tiktok.prepare(other, source, tmp_path / "other", num_shards=1)
    assert Samples.open(tmp_path / "other").manifest.splits != one


def test_modalities_have_stores_of_their_own_and_one_id(tmp_path, source):
    config = TiktokConfig(modalities=("visual", "audio"))
    tiktok.prepare(config, source, tmp_path / "data")
    samples = Samples.open(tmp_path / "data")
    visual, audio = (ImageStore.open(samples.image_store_path(n)) for n in ("visual", "audio"))
    assert visual.read([3]).tolist() == [[3, 6, 12]] and audio.read([3]).tolist() == [[-3, 3]]
    assert str(visual.dtype) == "float32"
    row = read_samples(tmp_path / "data", "train")[0]
    assert row["audio"] == row["video"]
    assert row["behaviour_audio"].tolist() == row["behaviour_videos"].tolist()
    stored = [field.name for field in samples.schema.stored]
    assert stored == ["user", "item", "video", "behaviour_videos", "click"]


def test_negatives_by_popularity_and_never_a_click_of_the_user():
    # User 0 clicked item 0. Of what is left item 1 was clicked six times, items 2 and 3 once each.
    user = np.array([0, *range(1, 7), 1, 1, *range(7, 11)])
    item = np.array([0, *[1] * 6, 2, 3, *[0] * 4])
    log = Interactions(user, item, {"visual": np.zeros((5, 1), np.float32)})
    rng = np.random.default_rng(0)
    drawn = [tiktok.draw_negatives(rng, log, np.arange(13))[0] for _ in range(500)]
    counts = np.bincount(np.ravel(drawn), minlength=5)
    # Shares 6/8, 1/8, 1/8 of 2,000 draws: standard deviations of 19, 15 and 15.
    np.testing.assert_allclose(counts[1:4], [1500, 250, 250], atol=80)
    assert counts[0] == counts[4] == 0


def test_a_user_who_clicked_all_of_a_split_has_no_negatives():
    log = Interactions(np.array([0, 0, 1]), np.array([0, 1, 0]), {"visual": np.zeros((2, 1))})
    drawn = tiktok.draw_negatives(np.random.default_rng(0), log, np.arange(3))
    assert drawn == [[], [], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feat": None}, "tiktok.npz cannot be read .*feat is not a file.*`feat`"),
        ({"user": np.arange(5)}, r"`user` int64\[5\] and `item` int32\[36\]; wanted as many"),
        ({"item": np.full(36, -1)}, "wanted as many ids of each, whole numbers from 0"),
        ({"feat": np.zeros((5, 3))}, r"`feat` \[5, 3\]; wanted a row for each item, 0 to 19"),
        ({"user": np.zeros(36, int)}, "a user has clicked an item twice"),
    ],
)
def test_a_bad_source_is_named(tmp_path, changes, message):
    source = write_source(tmp_path / "source", **changes)
    with pytest.raises(SampleError, match=message):
        tiktok.prepare(TiktokConfig(), source, tmp_path / "data")


def test_an_absent_source_is_named(tmp_path):
    with pytest.raises(SampleError, match=r"tiktok\.npz cannot be read .*; --source must be a dir"):
        tiktok.prepare(TiktokConfig(), tmp_path, tmp_path / "data")
    (tmp_path / "tiktok.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(SampleError, match=r"tiktok\.npz cannot be read"):
        tiktok.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "old"}, "--split is 'old'; use new_items or known_items"),
        ({"behaviours": 0}, "--behaviours is 0"),
        ({"modalities": ()}, "--modalities is ''; use some of visual,audio"),
        ({"modalities": ("visual", "text")}, "--modalities is 'visual,text'"),
        ({"modalities": ("audio", "audio")}, "--modalities is 'audio,audio'; .* each once"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TiktokConfig(**arguments)


@pytest.mark.shared_data
def test_real_data():
    root = pathlib.Path(__file__).parents[3].parent / "shared" / "data"
    source = pathlib.Path(os.environ.get("AMSTF_SHARED_DATA", root)) / "tiktok"
    if not (source / tiktok.FILE).exists():
        pytest.skip(f"{source} is absent; set AMSTF_SHARED_DATA to the real data sets")
    log = tiktok.read(source)
    assert (len(log.user), log.num_items) == (68_722, 6_710)
    config = TiktokConfig("new_items", seed=0)
    split = tiktok.split_of(config, log)
    items = [set(log.item[split == k].tolist()) for k in range(3)]
    assert [len(of_split) for of_split in items] == [4_697, 671, 1_342]
    # A fifth of the items, so about a fifth of the clicks; the independent program had 65,000 to
    # 76,000 samples to test on.
    assert abs(5 * (split == 2).sum() - 68_722) < 10_000
    clicked = set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    samples = list(tiktok.make_samples(config, log, split, 2))
    for sample in samples:
        assert ((sample["user"], sample["video"]) in clicked) == bool(sample["click"])
        assert sample["video"] in items[2] and sample["item"] == log.num_items
        assert items[0].issuperset(sample["behaviour_videos"])
    assert len(samples) == 5 * (split == 2).sum()
