"""Settings of admission and eviction: read, refused, and obeyed by the tables of a model."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from amstf.dynamic import Admission
from amstf.errors import ConfigError
from amstf.layers import named_dynamic_embeddings
from amstf.layers.evict_rows import POLICIES
from amstf.schema import Field, Schema
from launch import dynamic_tables
from launch.dynamic_rules import ADMISSION, EVICTION, admission_of, evictions_of
from launch.run_directory import RunConfig, RunDirectory
from models import EmbeddingMlp, build

SCHEMA = Schema((
    Field("user", "sparse", dynamic=True, embedding_width=3),
    Field("word", "sparse", dtype="string", dynamic=True, embedding_width=2),
    Field("click", "label"),
))  # fmt: skip


def config(**settings):
    return RunConfig(dataset="data", model="embedding_mlp", **settings)


@pytest.fixture
def model():
    return build(EmbeddingMlp(SCHEMA, hidden=(2,)), SCHEMA)


def see(model, ids):
    layer = named_dynamic_embeddings(model)["table_user"]
    layer(tf.constant(ids, tf.int64), training=True)
    return set(np.concatenate([page.ids.numpy() for _, page in layer.table.pages()]).tolist())


@pytest.mark.parametrize(
    ("read", "settings", "message"),
    [
        (admission_of, ["after"], r"admission has 'after'; after is a whole number from 1 to 255"),
        (admission_of, ["after=256"], r"admission has 'after=256'; after is a whole number"),
        (admission_of, ["after=2.5"], r"'after=2.5'; after is a whole number"),
        (admission_of, ["after=2", "after=3"], r"'after=3'; after is .*, once"),
        (admission_of, ["probability=0"], r"probability is a number above 0, at most 1"),
        (admission_of, ["probability=nan"], r"probability is a number above 0, at most 1"),
        (
            admission_of,
            ["sights=3"],
            r"'sights=3'; wanted NAME=VALUE, .* after, filter_bytes, prob",
        ),
        (admission_of, ["filter_bytes=100"], r"has filter_bytes.* give after too, 2 or more"),
        (admission_of, [3], r"admission has 3; wanted NAME=VALUE"),
        (evictions_of, ["unseen_steps=0"], r"eviction has 'unseen_steps=0'; .* 1 to 2,147,483,648"),
        (evictions_of, ["small_norm=inf"], r"small_norm is a number above 0$"),
        (evictions_of, ["old=3"], r"'old=3'; .* unseen_seconds, unseen_steps, small_norm, least"),
    ],
)
def test_what_cannot_be_is_named(read, settings, message):
    with pytest.raises(ConfigError, match=message):
        read(settings)
    attribute = {admission_of: "admission", evictions_of: "eviction"}[read]
    with pytest.raises(ConfigError, match=message):
        config(**{attribute: tuple(settings)})


def test_what_is_chosen_is_kept_and_may_change_while_a_run_goes_on(tmp_path):
    run = RunDirectory(tmp_path)
    asked = config(admission=("after=3", "filter_bytes=640"), eviction=("small_norm=0.5",))
    run.begin(asked)
    assert run.read_config() == asked
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    run.check(config(eviction=("unseen_steps=7",)))


def test_members_of_a_mutual_run_have_the_rules_of_the_whole():
    member = config(admission=("after=9",))
    whole = RunConfig(
        "data", "mutual", members={"a": member, "b": member}, admission=("after=2",),
        dynamic_memory=7,
    )  # fmt: skip
    assert {(m.admission, m.dynamic_memory) for m in whole.members.values()} == {(("after=2",), 7)}


def test_an_id_gets_its_row_after_so_many_sights(model):
    dynamic_tables.set_up(model, config(admission=("after=3", "filter_bytes=65536")))
    user = named_dynamic_embeddings(model)["table_user"]
    assert (user.options.admission.after, user.options.admission.filter_bytes) == (3, 65536)
    assert see(model, [5, 5, 6]) == set()
    assert see(model, [5, 7, 7, 7]) == {5, 7}
    (counted,) = dynamic_tables.counters(model)["table_user"]["servers"]
    assert (counted["rows_admitted"], counted["ids_refused"]) == (2, 2)
    assert counted["filter_counters_used"] == 3 * 4


def test_an_id_gets_its_row_with_a_probability(model):
    dynamic_tables.set_up(model, config(admission=("probability=0.25",)))
    assert 180 < len(see(model, range(1000))) < 320
    with pytest.raises(ConfigError, match=r"the table has .* choose its admission before it gets"):
        dynamic_tables.set_up(model, config(admission=("after=2",)))


@pytest.mark.parametrize(
    ("eviction", "left"),
    [
        (("unseen_steps=2",), {2, 3}),
        (("least_recent=1",), {3}),
        (("least_frequent=1",), {1}),
        (("unseen_steps=2", "least_frequent=1"), {2}),
        (("small_norm=1000",), set()),
        (("unseen_seconds=3600",), {1, 2, 3}),
        ((), {1, 2, 3}),
    ],
)
def test_rows_die_by_each_rule_and_are_counted(model, eviction, left):
    see(model, [1, 1, 1])
    see(model, [2, 2])
    see(model, [3])
    asked = config(eviction=eviction)
    assert dynamic_tables.evict(model, asked) == 3 - len(left)
    layer = named_dynamic_embeddings(model)["table_user"]
    ids = {int(i) for _, page in layer.table.pages() for i in page.ids.numpy()}
    assert ids == left
    assert layer.table.counters()["rows_evicted"] == 3 - len(left)


def test_the_filter_counts_as_memory(model):
    wanted = config(admission=("after=2",), dynamic_memory=32)
    # Each of two tables has a filter of 16 MiB.
    with pytest.raises(ConfigError, match="--dynamic_memory=32 is too little for 2 dynamic tables"):
        dynamic_tables.set_up(model, wanted)


def test_rules_for_a_model_without_dynamic_fields_are_refused():
    schema = Schema((Field("user", "sparse", vocabulary_size=3), Field("click", "label")))
    model = build(EmbeddingMlp(schema, hidden=(2,)), schema)
    asked = config(admission=("after=2",), eviction=("small_norm=1",))
    with pytest.raises(
        ConfigError, match="--admission and --eviction is about tables of dynamic fields, and the"
    ):
        dynamic_tables.set_up(model, asked)
    dynamic_tables.set_up(model, config())


def test_the_names_are_those_of_the_library():
    assert set(ADMISSION) == {field.name for field in dataclasses.fields(Admission)}
    assert set(EVICTION) == set(POLICIES) - {"unseen_since"}
