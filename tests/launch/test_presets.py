"""Recipes of training as files."""

import pytest
from absl import flags

from amstf.config import AmsConfig
from amstf.errors import ConfigError
from launch import presets
from launch.experiments.data import DATA
from launch.experiments.plan import JOINT
from launch.run_directory import RunConfig, RunDirectory
from tests.launch.training_program import train


@pytest.fixture
def values():
    made = flags.FlagValues()
    flags.DEFINE_string("model", None, "", flag_values=made)
    flags.DEFINE_list("tower", ["1"], "", flag_values=made)
    flags.DEFINE_float("learning_rate", 0.5, "", lower_bound=0.0, flag_values=made)
    flags.DEFINE_string("dataset", None, "", flag_values=made)
    return made


def write(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


def test_the_command_line_wins(values, tmp_path):
    path = write(tmp_path, "import math\n_half = 4\ntower = (_half * 2, 3)\nmodel = 'dicm'\n"
                           "learning_rate = math.sqrt(0.25) / 2")  # fmt: skip
    values(["program", "--model=lr"])
    presets.apply(path, values, list(values))
    assert (values.model, values.tower, values.learning_rate) == ("lr", ["8", "3"], 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("towr = 3", r"mine\.py: towr cannot be set by a preset; .*learning_rate, model, tower$"),
        ("dataset = 'x'", r"mine\.py: dataset cannot be set"),
        ("learning_rate = -1", r"mine\.py: .*learning_rate=-1"),
        ("tower = = 3", r"mine\.py does not run: SyntaxError"),
        ("tower = 1 / 0", r"mine\.py does not run: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(values, tmp_path, text, message):
    values(["program"])
    with pytest.raises(ConfigError, match=message):
        presets.apply(write(tmp_path, text), values, list(values))


def test_unknown_presets_are_told_which_there_are(values):
    with pytest.raises(ConfigError, match=r"--preset=papr: .*use .*paper.*PRESET\.py"):
        presets.load("papr")
    with pytest.raises(ConfigError, match=r"--preset=/no/where\.py: there is no such file"):
        presets.load("/no/where.py")
    assert "paper: The training of the paper" in presets.summary()


def test_every_preset_is_a_configuration():
    fields, of_servers = set(RunConfig.__dataclass_fields__), set(AmsConfig.__dataclass_fields__)
    for name in presets.names():
        assigned = presets.load(name)
        assert set(assigned) <= fields | of_servers, name
        config = {
            "dataset": "x", "model": "dicm", "hidden": (4,), "dropout": 0.0, "tower": (4,),
            "tower_dropout": 0.0, "aggregator": "sum", "missing": "error", "batch_size": 2,
            "epochs": 1, "learning_rate": 0.1, "seed": 0, "patience": 0,
        }  # fmt: skip
        ams = AmsConfig(**{n: assigned.pop(n) for n in of_servers & set(assigned)})
        RunConfig(**{**config, **assigned}, ams=ams)


@pytest.mark.parametrize(("name", "data"), [("movielens", "movielens"), ("tiktok", "tiktok-new")])
def test_presets_of_data_sets_are_what_the_experiments_train(name, data):
    assigned = presets.load(name)
    settings = dict(DATA[data].settings_of(JOINT))
    if not settings.get("id_dropout"):
        settings.pop("id_dropout_fields")
    assert assigned == {"model": "dicm", "images": "both", **settings}


def test_a_run_records_what_was_in_effect(small_dataset, tmp_path):
    path = write(
        tmp_path,
        "learning_rate = 0.02\nlearning_rate_decay = 0.5\ndecay_steps = 20\nid_l2 = 0.001\n"
        "id_gate = 2\nid_dropout = 0.1\nimage_dropout = 0.1\nepochs = 9\naggregator='multi_query'",
    )
    run = tmp_path / "run"
    done = train(small_dataset, run, f"--preset={path}")
    assert (done.returncode, done.stderr) == (0, "")
    config = RunDirectory(run).read_config()
    assert (config.preset, config.epochs, config.learning_rate) == (path, 1, 0.02)
    assert (config.id_l2, config.id_gate, config.id_dropout) == (0.001, 2.0, 0.1)
    again = train(small_dataset, run, f"--preset={path}", "--learning_rate=0.01")
    assert again.returncode == 2 and "learning_rate 0.02 (now 0.01)" in again.stderr
