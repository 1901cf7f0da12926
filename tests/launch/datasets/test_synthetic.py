import dataclasses

import numpy as np
import pytest

from amstf.data import GROUP_INDEX, Samples, per_impression
from amstf.errors import ConfigError
from amstf.metrics.auc import auc
from amstf.store import ImageStore
from launch.datasets import synthetic

SMALL = synthetic.SyntheticConfig(
    users=60, items=200, impressions=6000, image_width=16, behaviours=5, seed=3
)


@pytest.fixture(scope="module")
def log():
    return synthetic.generate(SMALL)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthetic") / "data"
    synthetic.prepare(SMALL, directory, num_shards=2)
    return Samples.open(directory)


def rows_of(samples, split):
    return next(iter(samples.dataset(split, 10_000, only_inputs=False)))


def test_the_same_seed_makes_the_same_files(samples, tmp_path):
    synthetic.prepare(SMALL, tmp_path / "again", num_shards=2)
    again = Samples.open(tmp_path / "again").manifest
    assert again.splits == samples.manifest.splits
    assert again.info == samples.manifest.info
    synthetic.prepare(dataclasses.replace(SMALL, seed=4), tmp_path / "other", num_shards=2)
    assert Samples.open(tmp_path / "other").manifest.splits != again.splits


def test_new_items_appear_only_in_the_test(samples, log):
    seen = {s: set(rows_of(samples, s)["item"].numpy().tolist()) for s in synthetic.SPLITS}
    new = set(np.flatnonzero(log.is_new).tolist())
    assert len(new) == 40
    assert not (seen["train"] | seen["validation"]) & new
    assert seen["test"] & new
    shown = np.isin(rows_of(samples, "test")["item"].numpy(), list(new)).mean()
    assert abs(shown - SMALL.new_item_impressions) < 0.05


def test_validation_may_have_new_items_of_its_own(log):
    config = dataclasses.replace(SMALL, new_validation_items=0.1)
    other = synthetic.generate(config)
    train, validation, test = (set(other.item[other.split == k].tolist()) for k in range(3))
    new = validation - train
    assert 10 <= len(new) <= 20 < len(test - train)
    assert not new & set(np.flatnonzero(other.is_new).tolist())
    shown = np.isin(other.item[other.split == 1], list(new)).mean()
    assert abs(shown - SMALL.new_item_impressions) < 0.1
    assert set(np.flatnonzero(other.is_new)) == set(np.flatnonzero(log.is_new))


def test_splits_follow_each_other_in_time(log):
    assert (np.diff(log.split) >= 0).all()
    assert np.bincount(log.split).tolist() == [4620, 480, 900]


def test_behaviours_are_earlier_clicks_newest_first(log):
    behaviours = synthetic.behaviours(log, SMALL.behaviours)
    clicks = {user: [] for user in range(SMALL.users)}
    for row, user in enumerate(log.user):
        assert behaviours[row].tolist() == clicks[user][::-1][: SMALL.behaviours]
        if log.click[row]:
            clicks[user].append(log.item[row])


def test_a_page_is_of_one_user_and_does_not_see_its_own_clicks():
    config = dataclasses.replace(SMALL, page_size=4)
    log = synthetic.generate(config)
    shown = synthetic.behaviours(log, config.behaviours, config.page_size)
    clicks = {user: [] for user in range(SMALL.users)}
    for begin in range(0, len(log.user), 4):
        page = range(begin, min(begin + 4, len(log.user)))
        (user,) = set(log.user[page])
        assert len(set(log.hour[page])) == 1
        for row in page:
            assert shown[row].tolist() == clicks[user][::-1][: SMALL.behaviours]
        clicks[user] += [log.item[row] for row in page if log.click[row]]


def test_grouped_are_the_same_impressions(tmp_path):
    config = dataclasses.replace(SMALL, impressions=1500, page_size=3)
    ways = {"plain": None, "grouped": 8}
    for name, group_size in ways.items():
        synthetic.prepare(config, tmp_path / name, num_shards=2, group_size=group_size)
    plain, grouped = (Samples.open(tmp_path / name) for name in ways)
    assert plain.manifest.info == grouped.manifest.info
    for split in synthetic.SPLITS:
        assert grouped.is_grouped(split) and not plain.is_grouped(split)
        assert grouped.num_impressions(split) == plain.num_records(split)
        sizes = np.bincount(rows_of(grouped, split)[GROUP_INDEX])
        assert sizes.max() <= 8 and sizes.mean() > 2.5
        same = []
        for samples in (plain, grouped):
            rows = per_impression(rows_of(samples, split), samples.schema)
            columns = [rows[f.name].numpy() for f in samples.schema.fields if not f.is_list]
            images = rows["behaviour_images"].numpy()
            same.append(sorted(map(str, zip(*columns, images.tolist(), strict=True))))
        assert same[0] == same[1]


def test_samples_hold_what_was_drawn(samples, log):
    rows = rows_of(samples, "test")
    here = log.split == 2
    assert rows["user"].numpy().tolist() == log.user[here].tolist()
    assert rows["group"].numpy().tolist() == log.user[here].tolist()
    assert rows["item"].numpy().tolist() == rows["ad_image_id"].numpy().tolist()
    assert rows["brand"].numpy().tolist() == log.brand[log.item[here]].tolist()
    assert rows["click"].numpy().ravel().tolist() == log.click[here].tolist()
    np.testing.assert_array_equal(rows["true_probability"].numpy().ravel(), log.probability[here])


def test_clicks_follow_the_true_probability(log):
    order = np.argsort(log.probability)
    for part in np.array_split(order, 6):
        expected = log.probability[part].mean()
        spread = np.sqrt(expected * (1 - expected) / len(part))
        assert abs(log.click[part].mean() - expected) < 4 * spread


def test_the_best_reachable_auc_is_stored(samples):
    best = samples.manifest.info["best_reachable"]
    rows = rows_of(samples, "test")
    click, probability = rows["click"].numpy(), rows["true_probability"].numpy()
    assert best["test"]["auc"] == pytest.approx(auc(click, probability), abs=1e-5)
    assert set(best) == {*synthetic.SPLITS, "test, new items"}
    train = set(rows_of(samples, "train")["item"].numpy().tolist())
    new = [item not in train for item in rows["item"].numpy()]
    assert best["test, new items"]["impressions"] == sum(new)
    assert best["test, new items"]["auc"] == pytest.approx(
        auc(click[new], probability[new]), abs=1e-5
    )


def test_every_image_that_samples_name_is_in_the_store(samples):
    store = ImageStore.open(samples.image_store_path())
    store.validate()
    assert (len(store), store.width, store.dtype) == (200, 16, "float16")
    for split in synthetic.SPLITS:
        rows = rows_of(samples, split)
        assert not len(store.missing(rows["ad_image"].numpy()))
        assert not len(store.missing(rows["behaviour_images"].numpy()))


def test_the_style_can_be_found_in_the_image():
    config = dataclasses.replace(SMALL, items=2000, image_width=256)
    style = synthetic.generate(config).style
    features = np.concatenate([f for _, f in synthetic.image_features(config, style)])
    inputs = np.column_stack([features, np.ones(len(features))])
    weights = np.linalg.lstsq(inputs[:1500], style[:1500], rcond=None)[0]
    error = (inputs[1500:] @ weights - style[1500:]).var(axis=0) / style[1500:].var(axis=0)
    assert (error < 0.2).all()


def test_taste_is_what_images_carry():
    # Without taste and visible quality, style tells nothing: the logit does not depend on it.
    config = dataclasses.replace(SMALL, taste=0.0, visible_quality=0.0, hidden_quality=0.0)
    still = synthetic.generate(dataclasses.replace(config, id_effects=0.0, propensity=0.0))
    assert len(set(still.probability.tolist())) == 1
    moved = synthetic.generate(SMALL)
    assert moved.probability.std() > 0.1


def test_tastes_turn_by_the_drift_and_by_nothing_without():
    styles = np.random.default_rng(0).normal(size=(4000, 2))
    taste = np.array([[1.0, 0.0], [0.6, -0.8]])
    user = np.arange(4000) % 2
    still = dataclasses.replace(SMALL, interests=1)
    before = synthetic._match(still, taste, user, styles)
    np.testing.assert_allclose(before, np.einsum("nk,nk->n", taste[user], styles))
    turned = synthetic._match(dataclasses.replace(still, taste_drift=np.pi), taste, user, styles)
    assert turned[0] == pytest.approx(before[0])
    assert turned[-1] == pytest.approx(-before[-1])
    # Half way it looks along another direction, at a right angle to the first.
    middle = slice(1900, 2100)
    assert abs(np.corrcoef(turned[middle], before[middle])[0, 1]) < 0.25
    with pytest.raises(ConfigError, match="--taste_drift is nan; "):
        dataclasses.replace(SMALL, taste_drift=float("nan"))


def test_the_defaults_are_what_the_documentation_promises():
    log = synthetic.generate(synthetic.SyntheticConfig())
    best = synthetic.best_reachable(log)
    assert 0.2 < log.click.mean() < 0.3
    assert 0.75 < best["test"]["auc"] < 0.82
    assert best["test, new items"]["impressions"] > 5000


def test_no_new_items_and_no_validation_are_possible(tmp_path):
    config = dataclasses.replace(SMALL, new_items=0.0, validation_share=0.0)
    counts = synthetic.prepare(config, tmp_path / "data")
    assert counts["validation"] == 0
    assert Samples.open(tmp_path / "data").splits == ("train", "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": 0}, "--users is 0; it must be at least 1"),
        ({"image_width": -1}, "--image_width is -1"),
        ({"new_items": 1.0}, "--new_items is 1.0; it is a share, from 0 to less than 1"),
        (
            {"new_items": 0.6, "new_validation_items": 0.4},
            "--new_items 0.6 and --new_validation_items 0.4 leave no items to train on",
        ),
        ({"test_share": 0.6, "validation_share": 0.5}, "leave nothing to train on"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_titles_show_what_images_do_not_and_change_nothing_else(samples, log, tmp_path):
    config = dataclasses.replace(SMALL, text_width=12)
    synthetic.prepare(config, tmp_path / "data", num_shards=2)
    with_titles = Samples.open(tmp_path / "data")
    # The bytes of records and images are those of a data set without titles.
    assert with_titles.manifest.splits == samples.manifest.splits
    pictures, titles = (
        ImageStore.open(with_titles.image_store_path(name)) for name in ("images", "titles")
    )
    ids = np.arange(SMALL.items)
    before = ImageStore.open(samples.image_store_path()).read(ids)
    np.testing.assert_array_equal(pictures.read(ids), before)
    assert titles.width == 12
    batch = rows_of(with_titles, "test")
    np.testing.assert_array_equal(batch["ad_title"], batch["item"])
    np.testing.assert_array_equal(batch["behaviour_titles"], batch["behaviour_images"])

    def explained(features):
        features = np.c_[features, np.ones(len(features))]
        fitted = features @ np.linalg.lstsq(features, log.hidden, rcond=None)[0]
        return 1 - np.var(log.hidden - fitted) / np.var(log.hidden)

    # 17 numbers fitted on 200 items explain 8 % by chance.
    assert explained(titles.read(ids)) > 0.6 and explained(before) < 0.2
    with pytest.raises(ConfigError, match="--text_width is -1; it must not be negative"):
        dataclasses.replace(SMALL, text_width=-1)
