import os
import pathlib

import h5py
import numpy as np
import pytest

from amstf.data import GROUP_INDEX, Samples
from amstf.errors import SampleError, StoreError
from amstf.store import ImageStore
from launch.datasets import movielens
from tests.helpers import read_samples

# user, movie, rating, time. User 1 likes 10, then 11 and 12 in one second, dislikes 13, ...
LOG = [
    (1, 10, 5, 100),
    (1, 11, 4, 200),
    (1, 12, 5, 200),
    (1, 13, 3, 300),
    (1, 14, 4, 400),
    (1, 15, 1, 500),
    (1, 16, 5, 600),
    (1, 17, 5, 700),
    (1, 18, 2, 800),
    (1, 19, 5, 900),
    (2, 10, 2, 150),
    (2, 19, 5, 250),
    (2, 11, 4, 350),
]
NO_IMAGE = 14


def write_source(directory, log=LOG):
    directory.mkdir()
    shuffled = [log[k] for k in np.random.default_rng(0).permutation(len(log))]
    (directory / "u.data").write_text("".join("\t".join(map(str, r)) + "\n" for r in shuffled))
    (directory / "u.user").write_text("1|24|M|writer|85711\n2|17|F|artist|94043\n")
    movies = []
    for k in range(10, 20):
        date = "" if k == 13 else f"01-Jan-19{k + 70}"
        flags = "|".join("1" if g in (1, k - 5) else "0" for g in range(19))
        movies.append(f"{k}|Caf\xe9 {k}|{date}||http://x|{flags}\n")
    (directory / "u.item").write_bytes("".join(movies).encode("latin-1"))
    features = directory / "features.h5"
    ids = np.array([k for k in range(10, 20) if k != NO_IMAGE][::-1])
    with h5py.File(features, "w") as file:
        file["ids"] = ids
        # Chunked on purpose: a foreign file need not be mappable.
        file.create_dataset(
            "features", data=np.outer(ids, [1.0, 2.0, 3.0]).astype("f"), chunks=True
        )
        file.attrs["extractor"] = "by hand"
    return directory, features


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def test_samples_by_hand(tmp_path, source):
    counts = movielens.prepare(*source, tmp_path / "data", num_shards=1)
    # User 1: 10 ratings, 2 test, 1 validation; user 2: 3 ratings, 1 test, none for validation.
    assert counts == {"train": 9, "validation": 1, "test": 3}
    rows = {
        (row["user"], row["movie"]): row
        for split in movielens.SPLITS
        for row in read_samples(tmp_path / "data", split)
    }
    assert len(rows) == len(LOG)
    behaviours = {key: row["behaviour_images"].tolist() for key, row in rows.items()}
    assert behaviours[1, 10] == []
    assert behaviours[1, 11] == behaviours[1, 12] == [10]
    assert behaviours[1, 13] == behaviours[1, 14] == [12, 11, 10]
    assert behaviours[1, 15] == [12, 11, 10]  # 14 is liked but has no image
    assert behaviours[1, 17] == [16, 12, 11, 10]
    assert behaviours[1, 19] == [17, 16, 12, 11, 10]
    assert behaviours[2, 11] == [19]
    row = rows[1, 14]
    assert (row["ad_image"], row["ad_image_id"], row["click"]) == (-1, -1, 1.0)
    assert (rows[1, 13]["ad_image"], rows[1, 13]["click"]) == (13, 0.0)
    assert rows[1, 15]["behaviour_image_ids"].tolist() == [12, 11, 10]
    assert rows[1, 13]["group"] == 1
    assert rows[1, 13]["genres"].tolist() == [1, 8]
    assert rows[1, 13]["release_year_bucket"] == 0
    # 1989 is in the bucket 1985-1989, the eighth: unknown, <1930, 30s, 40s, 50s, 60s, 70s, 80-84.
    assert rows[1, 19]["release_year_bucket"] == 8
    assert [
        rows[k, 10][name] for k in (1, 2) for name in ("age_bucket", "gender", "occupation")
    ] == [
        *(1, 0, 1),
        *(0, 1, 0),
    ]


def test_the_last_ratings_of_each_user_are_the_test(tmp_path, source):
    movielens.prepare(*source, tmp_path / "data", num_shards=2)
    keys = {
        split: {(row["user"], row["movie"]) for row in read_samples(tmp_path / "data", split)}
        for split in movielens.SPLITS
    }
    assert keys["test"] == {(1, 18), (1, 19), (2, 11)}
    assert keys["validation"] == {(1, 17)}


def test_the_store_holds_the_features_by_movie(tmp_path, source):
    movielens.prepare(*source, tmp_path / "data")
    samples = Samples.open(tmp_path / "data")
    store = ImageStore.open(samples.image_store_path())
    assert sorted(store.ids) == [10, 11, 12, 13, 15, 16, 17, 18, 19]
    assert store.read([12]).tolist() == [[12.0, 24.0, 36.0]]
    assert store.attributes["extractor"] == "by hand"
    assert samples.schema.item == "movie"
    assert not list(source[0].glob("*mappable*"))


def test_movies_without_image_can_be_left_out(tmp_path, source):
    counts = movielens.prepare(*source, tmp_path / "data", only_with_image=True)
    assert sum(counts.values()) == len(LOG) - 1
    for split in movielens.SPLITS:
        assert all(
            row["ad_image"] == row["movie"] for row in read_samples(tmp_path / "data", split)
        )


def test_behaviours_keep_the_newest(tmp_path):
    log = [(1, 10 + k % 10, 5, k) for k in range(50)]
    log = [movielens.Rating(*row) for row in log]
    users = {1: movielens.User(0, 0, 0)}
    movies = {k: movielens.Movie((), 0) for k in range(10, 20)}
    *_, (_, last) = movielens.make_samples(log, users, movies, set(movies))
    assert last["behaviour_images"] == [10 + k % 10 for k in range(48, 16, -1)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.data", None, "u.data cannot be read .*; --ratings must be the directory"),
        ("u.data", "", "u.data is empty"),
        ("u.data", "1\t10\t5\n", r"u.data, line 1: got 3 fields, wanted 4 separated by '\\t'"),
        ("u.data", "1\t10\t5\t9\n1\tx\t5\t9\n", "u.data, line 2: field 2 is 'x', wanted a whole"),
        ("u.data", "1\t10\t5\t9\n1\t10\t5\t9\n", "u.data holds Rating.* twice"),
        ("u.data", "9\t10\t5\t9\n", "u.data rates as user 9, whom u.user does not have"),
        ("u.data", "1\t99\t5\t9\n", "u.data rates movie 99, which u.item does not have"),
        ("u.user", "1|x|M|writer|0\n", "u.user, line 1: field 2 is 'x'"),
        ("u.item", "10|A|B\n", r"u.item, line 1: got 3 fields, wanted 24 separated by '\|'"),
    ],
)
def test_a_bad_source_is_named(tmp_path, source, name, text, message):
    path = source[0] / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(SampleError, match=message):
        movielens.prepare(*source, tmp_path / "data")


def test_a_bad_feature_file_is_named(tmp_path, source):
    source[1].write_text("no HDF5")
    with pytest.raises(StoreError, match=r"features\.h5"):
        movielens.prepare(*source, tmp_path / "data")


def shared_movielens():
    root = pathlib.Path(__file__).parents[3].parent / "shared" / "data"
    return pathlib.Path(os.environ.get("AMSTF_SHARED_DATA", root)) / "movielens"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    source = shared_movielens()
    if not (source / "u.data").exists():
        pytest.skip(f"{source} is absent; set AMSTF_SHARED_DATA to the real data sets")
    out = tmp_path_factory.mktemp("movielens") / "data"
    features = source / "features_efficientnet_lite0_tfnorm.h5"
    counts = movielens.prepare(source, features, out, only_with_image=True)
    log = {(r.user, r.movie): r for r in movielens.read_ratings(source)}
    rows = []
    for split in movielens.SPLITS:
        for batch in Samples.open(out).dataset(split, 4096, only_inputs=False):
            names = ("user", "movie", "click", "behaviour_images")
            for user, movie, click, images in zip(
                *(batch[name].numpy() for name in names), strict=True
            ):
                rating = log[int(user), int(movie)]
                rows.append((split, rating, float(click[0]), images[images >= 0].tolist()))
    return counts, log, rows


@pytest.mark.shared_data
def test_real_counts_are_those_of_the_independent_program(real):
    counts, _, rows = real
    assert counts["test"] == 19_981
    assert sum(counts.values()) == len(rows) == 99_927


@pytest.mark.shared_data
def test_nothing_of_the_future_leaks(real):
    _, log, rows = real
    latest: dict = {}
    for split, rating, click, behaviours in rows:
        assert click == (rating.rating >= 4)
        liked = [log[rating.user, movie] for movie in behaviours]
        assert all(earlier.time < rating.time for earlier in liked)
        assert all(earlier.rating >= 4 for earlier in liked)
        assert [e.time for e in liked] == sorted((e.time for e in liked), reverse=True)
        times = latest.setdefault(rating.user, {s: [] for s in movielens.SPLITS})
        times[split].append(rating.time)
    for times in latest.values():
        train, validation, test = (times[split] for split in movielens.SPLITS)
        assert max(train) <= min(validation or test) <= max(validation or test) <= min(test)


@pytest.mark.shared_data
def test_behaviours_are_all_that_the_user_liked_before(real):
    _, _, rows = real
    images = {rating.movie for _, rating, _, _ in rows}
    by_user: dict = {}
    for _, rating, _, _ in rows:
        by_user.setdefault(rating.user, []).append(rating)
    for _, rating, _, behaviours in rows[::50]:
        liked = [
            r.movie
            for r in by_user[rating.user]
            if r.rating >= 4 and r.time < rating.time and r.movie in images
        ]
        assert len(behaviours) == min(len(liked), 32)
        assert set(behaviours) <= set(liked)


def test_pages_share_the_behaviours_of_their_first_rating(tmp_path, source):
    for name, group_size in (("plain", None), ("grouped", 2)):
        movielens.prepare(
            *source, tmp_path / name, num_shards=1, page_size=3, group_size=group_size
        )
    # Of user 1 train has 7 ratings, pages of 3, 3 and 1; 13 to 15 become no behaviours.
    want = [[], [], [], [12, 11, 10], [12, 11, 10], [12, 11, 10], [12, 11, 10]]
    rows = [row for row in read_samples(tmp_path / "plain", "train") if row["user"] == 1]
    shown = [[i for i in row["behaviour_images"].tolist() if i >= 0] for row in rows]
    assert [row["movie"] for row in rows] == [10, 11, 12, 13, 14, 15, 16]
    assert shown == want
    # Groups are cut at two. User 2 was there before user 1 had rated 13.
    batch = next(iter(Samples.open(tmp_path / "grouped").dataset("train", 99, only_inputs=False)))
    movies = np.split(batch["movie"].numpy(), np.cumsum(np.bincount(batch[GROUP_INDEX]))[:-1])
    assert list(zip(batch["user"].numpy().tolist(), map(list, movies), strict=True)) == [
        (1, [10, 11]), (1, [12]), (2, [10, 19]), (1, [13, 14]), (1, [15, 16]),
    ]  # fmt: skip
