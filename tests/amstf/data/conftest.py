"""A small data set with a field of every kind."""

import pytest

from amstf.data import Samples, SampleWriter
from amstf.schema import Field, Schema

SCHEMA = Schema(
    (
        Field("user", "sparse", side="user", vocabulary_size=100),
        Field("city", "sparse", dtype="string", hash_size=50),
        Field("words", "sparse", is_list=True, dtype="string", hash_size=50),
        Field("topics", "sparse", is_list=True, vocabulary_size=100, max_length=3),
        Field("tags", "weighted_sparse", is_list=True, vocabulary_size=100, max_length=2),
        Field("numbers", "dense", length=2),
        Field("ad_image", "image", side="ad"),
        Field("behaviour_images", "image", side="user", is_list=True, max_length=4),
        Field("ad_image_id", "sparse", side="ad", source="ad_image", vocabulary_size=100),
        Field(
            "behaviour_image_ids",
            "sparse",
            side="user",
            is_list=True,
            source="behaviour_images",
            vocabulary_size=100,
            table="ad_image_id",
        ),
        Field("click", "label"),
        Field("group", "group", source="user"),
        Field("truth", "extra"),
    ),
    item="ad_image_id",
)


def make_sample(k: int, **changes) -> dict:
    sample = {
        "user": k,
        "city": f"city {k}",
        "words": [f"w{j}" for j in range(k % 3)],
        "topics": list(range(k % 5)),
        "tags": list(range(k % 4)),
        "tags.weight": [j + 0.5 for j in range(k % 4)],
        "numbers": [k, -k],
        "ad_image": k,
        "behaviour_images": [k + j for j in range(k % 6)],
        "click": k % 2,
        "truth": 0.25,
    }
    return {**sample, **changes}


def write_samples(directory, split="train", count=20, num_shards=3, schema=SCHEMA):
    with SampleWriter(directory, schema, split, num_shards=num_shards) as writer:
        for k in range(count):
            writer.write(make_sample(k))
    return Samples.open(directory)


@pytest.fixture
def samples(tmp_path):
    return write_samples(tmp_path / "data")
