"""Writes small files in CrossMedia's formats."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from amstf.store.buckets import NUM_BUCKETS, bucket_of


def write_images(prefix: pathlib.Path, images: Mapping[int, Sequence[float]]) -> str:
    """Writes id -> features as PREFIX.0 to PREFIX.1023, and returns the prefix."""
    contents = [b""] * NUM_BUCKETS
    for image, features in images.items():
        record = np.array(image, "<i8").tobytes() + np.array(features, "<f4").tobytes()
        contents[bucket_of(image)] += record
    for bucket, content in enumerate(contents):
        prefix.with_name(f"{prefix.name}.{bucket}").write_bytes(content)
    return str(prefix)


def random_images(count: int, width: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Makes images with ids in many buckets."""
    rng = np.random.default_rng(seed)
    return {int(k): rng.normal(size=width) for k in 1 + 37 * np.arange(count)}


def random_lines(groups: int, images: Sequence[int], seed: int = 0) -> list[str]:
    """Makes impressions as CrossMedia's example has them, in groups of one to four.

    A click is likelier if the first number of the ad's first dense feature is above one half.
    """
    rng = np.random.default_rng(seed)

    def weighted(ids: np.ndarray) -> str:
        return ",".join(f"{k}:{w:.6f}" for k, w in zip(ids, rng.random(len(ids)), strict=True))

    def dense() -> np.ndarray:
        return rng.random(4)

    lines = []
    for group in range(groups):
        user = ";".join(
            f"{name}@{weighted(rng.choice(values, rng.integers(1, most)))}"
            for name, values, most in (
                ("user0", range(1, 1025), 5),
                ("user1", range(1, 1025), 5),
                ("user_img0", images, 9),
            )
        )
        for _ in range(rng.integers(1, 5)):
            ad0, ad1, image = dense(), dense(), rng.choice(images)
            click = rng.random() < 0.2 + 0.6 * (ad0[0] > 0.5)
            ad = f"ad0@{','.join(f'{x:.6f}' for x in ad0)};ad1@{','.join(f'{x:.6f}' for x in ad1)}"
            ad += f";ad_img0@{weighted(np.array([image]))}"
            time = 1_545_000_000 + 60 * group
            lines.append(f"skey{len(lines)}|gkey{group}|{user}|{ad}|{int(click)}|{time}")
    return lines


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> str:
    """Writes a file of samples and returns its name."""
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)
