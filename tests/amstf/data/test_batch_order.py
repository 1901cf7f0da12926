import itertools

import numpy as np
import pytest

from amstf import ops
from amstf.data import BatchOrder, parse_batch, record_offsets
from amstf.errors import SampleError
from tests.amstf.data.conftest import SCHEMA, write_samples

USER = [SCHEMA["user"]]


def users(order, step):
    stretches = order.batch(step)
    records = ops.read_records(stretches.paths.tolist(), stretches.offsets, stretches.sizes)
    return parse_batch(records, USER)["user"].numpy().tolist()


def passes(order, number):
    steps = range(number * order.steps_per_pass, (number + 1) * order.steps_per_pass)
    return [users(order, step) for step in steps]


@pytest.mark.parametrize("block_size", [1, 3, 16])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 20, 50])
@pytest.mark.parametrize("count, num_shards", [(1, 1), (20, 1), (20, 3), (23, 5)])
def test_a_pass_is_each_sample_once_in_full_batches(
    tmp_path, count, num_shards, batch_size, block_size
):
    samples = write_samples(tmp_path, count=count, num_shards=num_shards)
    order = BatchOrder(samples, "train", batch_size, seed=5, block_size=block_size)
    assert order.num_records == count
    for number in (0, 1):
        batches = passes(order, number)
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(count))
        assert all(len(batch) == batch_size for batch in batches[:-1])


def test_passes_and_seeds_have_orders_of_their_own_that_can_be_had_again(tmp_path):
    samples = write_samples(tmp_path, count=60, num_shards=2)
    orders = [BatchOrder(samples, "train", 7, seed=seed, block_size=2) for seed in (1, 1, 2)]
    first, again, other = (passes(order, 0) for order in orders)
    assert first == again
    assert first != other
    assert first != passes(orders[0], 1)
    # Any step by itself, also after those of other passes.
    assert users(orders[0], 3) == first[3]


def test_unshuffled_it_is_the_order_of_the_files(tmp_path):
    samples = write_samples(tmp_path, count=20, num_shards=3)
    order = BatchOrder(samples, "train", 6, shuffle=False, block_size=4)
    in_files = [*range(0, 20, 3), *range(1, 20, 3), *range(2, 20, 3)]
    for number in (0, 1):
        assert list(itertools.chain.from_iterable(passes(order, number))) == in_files


def test_offsets_are_written_with_the_samples_and_found_without(tmp_path):
    samples = write_samples(tmp_path, count=20, num_shards=3)
    for file in samples.manifest.files("train"):
        path = tmp_path / file.path
        beside = tmp_path / f"{file.path}.offsets"
        written = np.fromfile(beside, "<i8").tolist()
        assert written == record_offsets(path, file.records).tolist()
        for unusable in (b"", b"\1" * len(beside.read_bytes())):
            beside.write_bytes(unusable)
            assert record_offsets(path, file.records).tolist() == written
        beside.unlink()
        assert record_offsets(path, file.records).tolist() == written


def test_a_file_with_fewer_records_is_named(tmp_path):
    samples = write_samples(tmp_path, count=4, num_shards=1)
    path = tmp_path / samples.manifest.files("train")[0].path
    with pytest.raises(SampleError, match=f"{path} ends in record 4 of 5"):
        record_offsets(path, 5)


def test_wrong_arguments_are_named(tmp_path):
    samples = write_samples(tmp_path)
    with pytest.raises(SampleError, match="batch_size is 0"):
        BatchOrder(samples, "train", 0)
    with pytest.raises(SampleError, match="block_size is -1"):
        BatchOrder(samples, "train", 4, block_size=-1)
    with pytest.raises(SampleError, match="no split 'other'"):
        BatchOrder(samples, "other", 4)
