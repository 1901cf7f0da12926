"""MovieLens-100k as click data: a rating of 4 or 5 is a click on a movie with a poster.

Each rating is one impression. The behaviours of an impression are the movies that the user rated 4
or more at a strictly earlier time, newest first. Per user and in order of time, the last 20 % of
the ratings are the test, the 10 % of all before them the validation, the rest the training split.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from tqdm import tqdm

from amstf import files
from amstf.data import SampleWriter, add_info, set_image_store
from amstf.errors import SampleError
from amstf.schema import NO_ID, Field, Schema
from amstf.store import ImageStoreWriter, hdf5_layout
from launch.datasets.adjacent import adjacent
from launch.datasets.halves import left_out

CLICK_RATING = 4
MAX_BEHAVIOURS = 32
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
SPLITS = ("train", "validation", "test")

# The age groups of the larger MovieLens sets; bucket 0 is "under 18".
AGE_LIMITS = (18, 25, 35, 45, 50, 56)
# Bucket 0 is "year unknown", 1 "before 1930". Two thirds of the ratings are of movies from 1990 on.
YEAR_LIMITS = (0, 1930, 1940, 1950, 1960, 1970, 1980, 1985, 1990, 1992, *range(1993, 1999))
NUM_GENRES = 19
_STORE_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class User:
    """What u.user says of a user; `occupation` counts from 0 in alphabetical order."""

    age_bucket: int
    gender: int
    occupation: int


@dataclasses.dataclass(frozen=True)
class Movie:
    """What u.item says of a movie."""

    genres: tuple[int, ...]
    release_year_bucket: int


@dataclasses.dataclass(frozen=True)
class Rating:
    """One line of u.data; `time` in seconds since 1970."""

    user: int
    movie: int
    rating: int
    time: int


@dataclasses.dataclass
class _Page:
    """A page view: ratings of one user that share their behaviours."""

    split: str
    behaviours: list[int]
    size: int = 0


def prepare(
    ratings: str | os.PathLike[str],
    features: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    only_with_image: bool = False,
    num_shards: int = 8,
    image_dtype: str = "float32",
    page_size: int = 1,
    group_size: int | None = None,
    train_half: str = "",
) -> dict[str, int]:
    """Writes MovieLens-100k with poster features as a data set.

    Args:
        ratings: Directory with u.data, u.user and u.item as published.
        features: HDF5 file with `ids` (movie ids [n]) and `features` (floats [n, F]).
        directory: The data set directory to fill.
        only_with_image: Whether to leave out ratings of movies without features. Otherwise their
            ad image is -1.
        num_shards: Files per split.
        image_dtype: Stored type of the features, one of `image_store_writer.DTYPES`.
        page_size: See `make_samples`.
        group_size: Impressions of the longest group, if they are to be stored in groups: those of
            a user with the same behaviours come together then.
        train_half: One of `halves.HALVES`, or "" for the whole training split. What the other half
            liked stays among the behaviours.

    Returns:
        The number of samples by split.

    Raises:
        SampleError: If a file of `ratings` is missing or a line of it cannot be read.
        StoreError: If `features` cannot be read.
    """
    log = read_ratings(ratings)
    users = read_users(ratings)
    movies = read_movies(ratings)
    _check_known(log, users, movies)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with_image = _copy_features(features, directory / "images.h5", image_dtype)
    if only_with_image:
        log = [rating for rating in log if rating.movie in with_image]

    schema = make_schema(users, movies)
    split_of = split_by_time(log)
    in_training = [rating for rating in log if split_of[rating] == SPLITS[0]]
    for rating in in_training[left_out(len(in_training), train_half)]:
        split_of[rating] = ""
    counts = collections.Counter(split_of.values())
    writers = {
        split: SampleWriter(directory, schema, split, num_shards, group_size)
        for split in SPLITS
        if counts[split]
    }
    try:
        samples: Iterable[tuple[Rating, dict]] = make_samples(
            log, users, movies, with_image, page_size, split_of
        )
        if group_size is not None:
            made = list(samples)
            keys = ((split_of[r], r.user, tuple(s["behaviour_images"])) for r, s in made)
            samples = [made[k] for k in adjacent(keys)]
        for rating, sample in tqdm(samples, "samples", len(log), disable=None, unit_scale=True):
            if split_of[rating]:
                writers[split_of[rating]].write(sample)
        for writer in writers.values():
            writer.close()
    finally:
        # Does nothing to a writer that is closed.
        for writer in writers.values():
            writer.abort()
    set_image_store(directory, "images.h5")
    add_info(
        directory,
        source="MovieLens-100k",
        click=f"rating >= {CLICK_RATING}",
        split="per user by time: test is the last 20 %, validation the 10 % before it",
        images_from=str(features),
        only_with_image=only_with_image,
        page_size=page_size,
        **({"train_half": train_half} if train_half else {}),
    )
    return {split: counts[split] for split in SPLITS}


def make_schema(users: dict[int, User], movies: dict[int, Movie]) -> Schema:
    """Returns the fields of the data set, sized for these users and movies."""
    num_movies = max(movies) + 1
    occupations = max(user.occupation for user in users.values()) + 1
    behaviours = {"is_list": True, "max_length": MAX_BEHAVIOURS}
    images = {"table": "image_id", "vocabulary_size": num_movies}
    return Schema(
        (
            Field("user", "sparse", side="user", vocabulary_size=max(users) + 1),
            Field("age_bucket", "sparse", side="user", vocabulary_size=len(AGE_LIMITS) + 1),
            Field("gender", "sparse", side="user", vocabulary_size=2),
            Field("occupation", "sparse", side="user", vocabulary_size=occupations),
            Field("behaviour_images", "image", side="user", **behaviours),
            Field(
                "behaviour_image_ids",
                "sparse",
                side="user",
                source="behaviour_images",
                **behaviours,
                **images,
            ),
            Field("movie", "sparse", side="ad", vocabulary_size=num_movies),
            Field("genres", "sparse", side="ad", is_list=True, vocabulary_size=NUM_GENRES),
            Field("release_year_bucket", "sparse", side="ad", vocabulary_size=len(YEAR_LIMITS) + 1),
            Field("ad_image", "image", side="ad"),
            Field("ad_image_id", "sparse", side="ad", source="ad_image", **images),
            Field("click", "label"),
            Field("group", "group", side="user", source="user"),
        ),
        item="movie",
    )


def make_samples(
    log: list[Rating],
    users: dict[int, User],
    movies: dict[int, Movie],
    with_image: set[int],
    page_size: int = 1,
    split_of: Mapping[Rating, str] | None = None,
) -> Iterator[tuple[Rating, dict]]:
    """Yields each rating, in order of time, with its sample.

    Args:
        log: The ratings in order of time.
        users: Users by id.
        movies: Movies by id.
        with_image: Ids of the movies that have an image.
        page_size: Consecutive ratings of a user that count as one page view, at most: all of them
            have the behaviours of the first. With 1, each has those of its own time.
        split_of: Split of each rating; a page ends with its split.
    """
    pages: dict[int, _Page] = {}
    liked: dict[int, collections.deque[int]] = collections.defaultdict(
        lambda: collections.deque(maxlen=MAX_BEHAVIOURS)
    )
    # Ratings of one second become behaviours together, after it: "earlier" is strict.
    pending: list[Rating] = []
    for rating in log:
        if pending and pending[0].time < rating.time:
            for earlier in pending:
                liked[earlier.user].appendleft(earlier.movie)
            pending = []
        split = split_of[rating] if split_of else ""
        page = pages.get(rating.user)
        if page is None or page.size == page_size or page.split != split:
            page = pages[rating.user] = _Page(split, list(liked[rating.user]))
        page.size += 1
        user, movie = users[rating.user], movies[rating.movie]
        click = rating.rating >= CLICK_RATING
        yield (
            rating,
            {
                "user": rating.user,
                "age_bucket": user.age_bucket,
                "gender": user.gender,
                "occupation": user.occupation,
                "behaviour_images": page.behaviours,
                "movie": rating.movie,
                "genres": movie.genres,
                "release_year_bucket": movie.release_year_bucket,
                "ad_image": rating.movie if rating.movie in with_image else NO_ID,
                "click": float(click),
            },
        )
        if click and rating.movie in with_image:
            pending.append(rating)


def split_by_time(log: list[Rating]) -> dict[Rating, str]:
    """Returns the split of each rating: per user, the last ones are the test.

    Shares are rounded to whole ratings for each user. A user's training ratings are never later
    than their validation ratings, nor those than their test ratings.
    """
    by_user = collections.defaultdict(list)
    for rating in log:
        by_user[rating.user].append(rating)
    split_of = {}
    for own in by_user.values():
        num_test = round(len(own) * TEST_SHARE)
        num_validation = round(len(own) * VALIDATION_SHARE)
        num_train = len(own) - num_test - num_validation
        for k, rating in enumerate(own):
            later = (k >= num_train) + (k >= num_train + num_validation)
            split_of[rating] = SPLITS[later]
    return split_of


def read_ratings(directory: str | os.PathLike[str]) -> list[Rating]:
    """Reads u.data, in order of time; ratings of one second in order of user and movie."""
    ratings = [
        Rating(*map(int, fields)) for fields in _lines(directory, "u.data", "\t", 4, range(4))
    ]
    return sorted(ratings, key=lambda r: (r.time, r.user, r.movie))


def read_users(directory: str | os.PathLike[str]) -> dict[int, User]:
    """Reads u.user."""
    rows = list(_lines(directory, "u.user", "|", 5, (0, 1)))
    occupations = sorted({row[3] for row in rows})
    return {
        int(row[0]): User(
            age_bucket=bisect.bisect_right(AGE_LIMITS, int(row[1])),
            gender=int(row[2] == "F"),
            occupation=occupations.index(row[3]),
        )
        for row in rows
    }


def read_movies(directory: str | os.PathLike[str]) -> dict[int, Movie]:
    """Reads u.item: id | title | release date (01-Jan-1995) | video date | URL | 19 genre flags."""
    movies = {}
    for row in _lines(directory, "u.item", "|", 5 + NUM_GENRES, (0, *range(5, 5 + NUM_GENRES))):
        year = row[2][-4:]
        movies[int(row[0])] = Movie(
            genres=tuple(k for k in range(NUM_GENRES) if row[5 + k] == "1"),
            release_year_bucket=bisect.bisect_right(YEAR_LIMITS, int(year))
            if re.fullmatch("[0-9]{4}", year)
            else 0,
        )
    return movies


def _lines(
    directory: str | os.PathLike[str],
    name: str,
    separator: str,
    num_fields: int,
    numbers: range | tuple[int, ...],
) -> Iterator[list[str]]:
    path = pathlib.Path(directory, name)
    try:
        files.size(path)  # A pipe would be waited for without end.
        # Titles are Latin-1 in the published files, where splitlines would see ends of lines.
        lines = path.read_text(encoding="latin-1").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise SampleError(
            f"{path} cannot be read ({error}); --ratings must be the directory of "
            "MovieLens-100k with u.data, u.user and u.item (grouplens.org/datasets/movielens/100k)"
        ) from error
    if lines == [""]:
        raise SampleError(f"{path} is empty; copy it again from MovieLens-100k")
    for number, line in enumerate(lines, 1):
        fields = line.split(separator)
        if len(fields) != num_fields:
            raise SampleError(
                f"{path}, line {number}: got {len(fields)} fields, wanted {num_fields} separated "
                f"by {separator!r}"
            )
        for k in numbers:
            if not re.fullmatch(r"[0-9]{1,18}", fields[k]):
                raise SampleError(
                    f"{path}, line {number}: field {k + 1} is {fields[k]!r}, wanted a whole number "
                    "of at most 18 digits"
                )
        yield fields


def _check_known(log: list[Rating], users: dict[int, User], movies: dict[int, Movie]) -> None:
    for rating in log:
        if rating.user not in users:
            raise SampleError(f"u.data rates as user {rating.user}, whom u.user does not have")
        if rating.movie not in movies:
            raise SampleError(f"u.data rates movie {rating.movie}, which u.item does not have")
    if len(set(log)) != len(log):
        double = next(r for r, n in collections.Counter(log).items() if n > 1)
        raise SampleError(f"u.data holds {double} twice; copy it again from MovieLens-100k")


def _copy_features(features: str | os.PathLike[str], store: pathlib.Path, dtype: str) -> set[int]:
    # The file is foreign: its layout may not be one that can be mapped, and it may be read-only.
    path = pathlib.Path(features)
    with hdf5_layout.open_hdf5(path) as file:
        ids, rows = hdf5_layout.datasets(file, path)
        attributes = hdf5_layout.read_attributes(file, path)
        with ImageStoreWriter(store, rows.shape[1], dtype, attributes=attributes) as writer:
            for begin in range(0, len(ids), _STORE_ROWS):
                end = begin + _STORE_ROWS
                writer.write(ids[begin:end], hdf5_layout.read_rows(file, begin, end))
        return set(np.asarray(ids[:]).tolist())
