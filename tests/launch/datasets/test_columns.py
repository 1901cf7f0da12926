import numpy as np
import pytest
import tf_keras as keras

from amstf.errors import SampleError
from launch.datasets.columns import (
    Rows,
    ValueCounter,
    Vocabulary,
    hash_ids,
    integers,
    numbers,
)
from launch.datasets.number_columns import NumberMap, NumberStatistics


def test_vocabulary_is_by_frequency_then_text_and_counts_missing_as_a_value(tmp_path):
    counter = ValueCounter()
    counter.add(["b", "a", None, "c"])
    counter.add(["b", "a", None, "b"])
    vocabulary = counter.vocabulary(min_count=2)
    assert vocabulary.values == ("b", "", "a")
    assert vocabulary.ids(["a", "c", None, "b"]).tolist() == [2, 3, 1, 0]
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


def test_an_empty_vocabulary_gives_the_unknown_id():
    empty = Vocabulary(())
    assert empty.ids(["x"]).tolist() == [empty.unknown] == [empty.size]


@pytest.mark.parametrize("values", [["a", "", "77", "é"], [5, -7, 2**62]])
def test_hashing_is_that_of_a_field_with_hash_size(values):
    wanted = keras.layers.Hashing(1000)(np.array(values)).numpy().tolist()
    assert hash_ids(values, 1000).tolist() == wanted


@pytest.mark.parametrize("value", ["x", "inf"])
def test_what_is_no_number_is_named_with_file_and_row(value):
    with pytest.raises(SampleError, match=f"f.csv, row 6: column 'price' is '{value}', wanted a"):
        numbers(["1", value], "price", Rows("f.csv", 5))


@pytest.mark.parametrize("value", ["x", "1.5", str(2**63), None])
def test_what_is_no_whole_number_is_named_with_file_and_row(value):
    with pytest.raises(SampleError, match=r"f\.csv, row 2: column 'image' is .* wanted a whole"):
        integers(["1", value], "image", Rows("f.csv"))


def test_statistics_in_pieces_are_those_of_all():
    values = np.random.default_rng(0).normal(1e6, 2.0, 999)
    statistics = NumberStatistics()
    for piece in np.split(values, [10, 400]):
        statistics.add(piece)
    assert statistics.mean == pytest.approx(values.mean())
    assert statistics.deviation == pytest.approx(values.std())
    mapped = NumberMap("standard").fitted(statistics)(values)
    assert (mapped.mean(), mapped.std()) == pytest.approx((0, 1), abs=1e-5)
