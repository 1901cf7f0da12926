import numpy as np
import pytest
import tensorflow as tf

from amstf.store import NUM_BUCKETS, bucket_of, server_of


def test_an_id_has_the_bucket_of_its_low_ten_bits():
    assert NUM_BUCKETS == 1024
    assert [bucket_of(i) for i in (0, 1023, 1024, 2**62 + 5)] == [0, 1023, 0, 5]


@pytest.mark.parametrize("servers", [1, 2, 3, 7, 1024])
def test_ints_arrays_and_tensors_agree_and_every_server_has_images(servers):
    ids = np.random.default_rng(0).integers(0, 2**62, size=20_000)
    owners = server_of(ids, servers)
    np.testing.assert_array_equal(owners, ids % 1024 % servers)
    np.testing.assert_array_equal(server_of(tf.constant(ids), servers), owners)
    assert [server_of(int(i), servers) for i in ids[:50]] == owners[:50].tolist()
    assert set(owners) == set(range(servers))


def test_the_share_of_a_server_is_fair_for_ids_in_a_row():
    counts = np.bincount(server_of(np.arange(100_000), 3))
    assert counts.max() - counts.min() < 200
