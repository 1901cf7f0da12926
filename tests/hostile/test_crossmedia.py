"""Fuzz of CrossMedia's text and image files: a good data set or one clear line."""

import shutil

from hypothesis import example, given
from hypothesis import strategies as st

from amstf.data import Samples
from launch.datasets import crossmedia
from launch.datasets.columns import Rows
from launch.datasets.crossmedia import CrossMediaConfig
from launch.datasets.crossmedia_images import write_store
from launch.datasets.crossmedia_text import floats, parse, weighted_ids
from tests.hostile.strategies import broken_bytes, examples, good_or_refused
from tests.launch.datasets.crossmedia_files import random_images, random_lines, write_images

LINES = random_lines(20, [1, 38, 75])
CONTENT = "".join(line + "\n" for line in LINES).encode()
PIECES = st.sampled_from(
    ["|", "@", ";", ",", ":", "1", "-1", "0.5", "e9", "user0", "\r", "\n", "²"]
)


@examples(300)
@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=30).map("".join))
@example("s|g|user0@" + "9" * 5000 + "||1|1")
@example("s|g|user0@" + "1" * 100_000 + "x||1|1")
@example("s|g|a@1:" + "1" * 100_000 + ".e||1|1")
def test_lines(text):
    content = text.encode("utf-8", "surrogatepass")
    impression = good_or_refused(lambda: parse(content, Rows("data.txt", 1, "line"), 0), "line 1")
    for value in {**impression.user, **impression.ad}.values() if impression else ():
        for read in (weighted_ids, floats):
            try:
                assert read(value) is not None
            except ValueError as error:
                assert len(str(error)) < 200


def test_files_of_samples(tmp_path):
    path, out = tmp_path / "data.txt", tmp_path / "out"

    @examples(60)
    @given(broken_bytes(CONTENT))
    @example(b"")
    @example(CONTENT.replace(b"\n", b"\r\n"))
    def check(content):
        path.write_bytes(content)
        shutil.rmtree(out, ignore_errors=True)
        prepare = lambda: crossmedia.prepare(  # noqa: E731
            CrossMediaConfig(hash_size=9), [str(path)], None, out, num_shards=1
        )
        counts = good_or_refused(prepare, str(path), "of ")
        if counts is not None:
            samples = Samples.open(out)
            assert counts == {s: samples.num_impressions(s) for s in samples.splits}

    check()


def test_files_of_images(tmp_path):
    prefix = write_images(tmp_path / "imgs", random_images(4, 3))
    path = tmp_path / "imgs.38"
    good = path.read_bytes()

    @examples(30)
    @given(broken_bytes(good))
    @example(good * 3)
    def check(content):
        path.write_bytes(content)
        store = good_or_refused(lambda: write_store(prefix, tmp_path / "a.h5"), "imgs.", "written")
        assert store is None or (len(store), store.width) == (3 + bool(content), 3)

    check()
