"""launch.export as a person runs it: from a run directory to a SavedModel that checked itself."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from amstf.data import Samples, SampleWriter, set_image_store
from amstf.delta import apply_delta
from amstf.errors import ConfigError, ExportError
from amstf.export import export
from amstf.schema import Field, Schema
from launch.click_model import image_width, load_run, make_model, open_stores, open_stores_of
from launch.export_check import check_export, first_records
from launch.json_files import write_json
from launch.model_card import CARD_JSON, CARD_MARKDOWN
from launch.run_directory import RunConfig, RunDirectory
from tests.exports import FEATURES, ROOT, sample, write_dataset, write_store
from tests.helpers import CLICK_SCHEMA


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.export", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("launch_export") / "data")


def write_run(path, samples, model="dicm", aggregator="attentive", images="", image_width=5):
    """Writes what a training leaves behind, without training."""
    config = RunConfig(
        dataset=str(samples.directory),
        model=model,
        hidden=(6,),
        dropout=0.5,
        tower=(4, 3),
        tower_dropout=0.5,
        aggregator=aggregator,
        missing="error",
        batch_size=8,
        epochs=1,
        learning_rate=0.01,
        seed=3,
        patience=0,
        image_width=image_width,
        images=images,
    )
    directory = RunDirectory(path)
    directory.begin(config)
    samples.schema.save(directory.path)
    made = make_model(config, samples.schema, open_stores_of(config, samples))
    for where, scale in ((directory.best, 0.5), (directory.checkpoints, 0.1)):
        rng = np.random.default_rng(4)
        made.set_weights([rng.normal(0, scale, size=w.shape) for w in made.get_weights()])
        checkpoint = tf.train.Checkpoint(model=made)
        tf.train.CheckpointManager(checkpoint, str(where), max_to_keep=1).save()
    return directory, made


@pytest.fixture(scope="module")
def trained(tmp_path_factory, samples):
    directory, model = write_run(tmp_path_factory.mktemp("launch_export") / "run", samples)
    metrics = {"all": {"auc": 0.75, "impressions": 40}}
    write_json(directory.path / "evaluation-test.json", {"checkpoint": "best", "metrics": metrics})
    return directory, model


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained):
    out = tmp_path_factory.mktemp("launch_export") / "deep" / "model"
    return out, run(f"--run={trained[0].path}", f"--out={out}")


def test_a_run_becomes_an_export_that_has_checked_itself(exported):
    out, done = exported
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: SavedModel of stock TensorFlow ops, 0.")
    assert "predict           8 fields by name" in done.stdout
    assert "serving_default   examples " in done.stdout
    assert "embed_images      features " in done.stdout
    assert "images: 30 images as embeddings of 3 (raw: 5 features each" in done.stdout
    assert "checked in a fresh process: 40 samples, greatest difference" in done.stdout
    assert f"python -m launch.score --export={out} " in done.stdout
    assert f"-v {out}:/models/click/1 tensorflow/serving" in done.stdout
    assert [p.name for p in out.parent.iterdir()] == ["model"]


def test_the_example_request_asks_what_the_signature_takes(exported, trained, samples):
    out, _ = exported
    instances = json.loads((out / "assets.extra/predict_request.json").read_text())["instances"]
    assert len(instances) == 2
    assert any(word.startswith("wört") for row in instances for word in row["words"])
    loaded = tf.saved_model.load(str(out))
    serve = loaded.signatures["predict"]
    inputs = {
        name: tf.constant([row[name] for row in instances], spec.dtype)
        for name, spec in serve.structured_input_signature[1].items()
    }
    got = serve(**inputs)["click_probability"]
    records = first_records(samples, "test", 2)
    want = loaded.signatures["serving_default"](examples=tf.constant(records))
    np.testing.assert_allclose(got, want["click_probability"], rtol=0, atol=1e-6)


def test_a_model_card_goes_along(exported, trained):
    out, _ = exported
    card = json.loads((out / CARD_JSON).read_text())
    assert card["model"] == "dicm" and card["run"] == str(trained[0].path)
    assert card["data"]["impressions"] == {"test": 40}
    assert card["metrics"]["test"]["metrics"]["all"]["auc"] == 0.75
    assert Schema.from_json(json.dumps(card["schema"])) == CLICK_SCHEMA
    assert card["versions"]["tensorflow"] == tf.__version__
    # What another computes of the files that arrived.
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files - {CARD_JSON, CARD_MARKDOWN} == card["sha256"].keys()
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    text = (out / CARD_MARKDOWN).read_text()
    assert (
        "| test | 0.7500 |  |  |  | 40 |" in text
        and "| liked_images | image | user | yes |" in text
    )
    assert f"{card['sha256']['saved_model.pb']}  saved_model.pb" in text
    assert "Images of `images`: 30 embeddings of 3 float32, inside the model." in text


def test_a_delta_since_an_earlier_export(exported, trained, tmp_path):
    out, _ = exported
    new = tmp_path / "new"
    # The last weights are other ones, so that all that is trained has changed.
    done = run(f"--run={trained[0].path}", f"--out={new}", "--checkpoint=last", f"--since={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"since {out}: " in done.stdout
    # What was measured is another checkpoint.
    assert json.loads((new / CARD_JSON).read_text())["metrics"] == {}
    assert "30 images are new or have another embedding, 0 are gone" in done.stdout
    loaded, whole = tf.saved_model.load(str(out)), tf.saved_model.load(str(new))
    apply_delta(loaded, new / "assets.extra/delta.h5")
    for got, want in zip(loaded.state, whole.state, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_table_beside_in_half_the_bytes(trained, tmp_path):
    out = tmp_path / "model"
    done = run(f"--run={trained[0].path}", f"--out={out}", "--table=parquet",
               "--table_dtype=float16")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    file = out / "assets.extra/image_embeddings_images.parquet"
    assert f"in {file}, float16; requests bring them along" in done.stdout
    assert "launch.score" not in done.stdout
    table = pq.read_table(file)
    assert table["id"].to_pylist() == list(range(30))
    request = json.loads((out / "assets.extra/predict_request.json").read_text())
    assert request["signature_name"] == "predict"
    assert np.shape(request["instances"][0]["image_embedding"]) == (3,)
    assert "`image_embeddings_images.parquet`" in (out / CARD_MARKDOWN).read_text()


def test_an_export_that_is_there_needs_overwrite(exported, trained):
    out, _ = exported
    before = (out / "saved_model.pb").stat().st_mtime_ns
    done = run(f"--run={trained[0].path}", f"--out={out}")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {out} is a SavedModel already; choose another --out, or replace it with "
        "--overwrite\n"
    )
    assert (out / "saved_model.pb").stat().st_mtime_ns == before


def test_the_last_weights_of_a_model_without_images_replace_the_export(tmp_path, samples):
    directory, _ = write_run(tmp_path / "run", samples, model="embedding_mlp")
    out = tmp_path / "model"
    out.mkdir()
    (out / "saved_model.pb").write_text("old")
    done = run(f"--run={directory.path}", f"--out={out}", "--checkpoint=last", "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no images: this model sees ids only" in done.stdout
    assert "embed_images" not in done.stdout
    # write_run leaves smaller weights as the last than as the best.
    variables = tf.train.load_checkpoint(str(out / "variables/variables"))
    names = [name for name in variables.get_variable_to_shape_map() if name.startswith("state/")]
    assert max(variables.get_tensor(name).std() for name in names) < 0.2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "run"]


def test_a_tower_is_exported_alone_and_checked(tmp_path, samples):
    directory, _ = write_run(tmp_path / "run", samples, "prerank", "sum", "both")
    out = tmp_path / "ads"
    signatures = "--signatures=ad_embedding,user_embedding,score_ads"
    done = run(f"--run={directory.path}", f"--out={out}", signatures)
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "  ad_embedding      image, item, price                        ad_embedding\n",
        "  score_ads         ad_embeddings, user_embedding             click_probability\n",
        "checked in a fresh process: 40 samples, greatest difference",
    ):
        assert line in done.stdout, done.stdout
    assert "launch.score" not in done.stdout and "REST" not in done.stdout
    assert not (out / "assets.extra/predict_request.json").exists()
    wrong = run(f"--run={directory.path}", f"--out={tmp_path / 'w'}", "--signatures=tower")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: signatures names tower; the model has serving_default,")


def test_samples_whose_images_the_store_lacks_end_the_check(tmp_path, samples, trained):
    data = write_dataset(tmp_path / "data").directory
    with SampleWriter(data, CLICK_SCHEMA, "other", num_shards=1) as writer:
        writer.write({**sample(0), "image": 77})
    out = tmp_path / "model"
    done = run(
        f"--run={trained[0].path}", f"--out={out}", f"--dataset={data}", "--check_split=other"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 1 of ") and "77" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_wrong_paths_are_one_line(tmp_path):
    done = run(f"--run={tmp_path}", f"--out={tmp_path / 'model'}")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {tmp_path / 'config.json'} does not exist: {tmp_path} is"
    )
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_wrong_flags_are_one_line():
    done = run("--run=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: flag --out is missing\nsee: python -m launch.export --help"
    )


def test_an_export_that_differs_from_the_model_is_refused(exported, trained, samples):
    out, _ = exported
    _, model = trained  # It has the last weights, the export the best ones.
    records = first_records(samples, "test", 5)
    with pytest.raises(
        ExportError, match=r"'serving_default' gives differs from the model's by up to .*"
    ):
        check_export(out, model, samples.schema, records)


def test_an_export_that_cannot_be_loaded_is_refused(tmp_path, trained, samples):
    records = first_records(samples, "test", 1)
    with pytest.raises(ExportError, match="another process cannot load and score"):
        check_export(tmp_path, trained[1], samples.schema, records)


def test_a_model_of_two_stores(tmp_path):
    # A title of 4 floats for each image, under the same id; `text_width` of launch.prepare.
    schema = Schema(
        (
            *CLICK_SCHEMA.fields,
            Field("title", "image", side="ad", store="titles", source="image"),
            Field("liked_titles", "image", "user", True, store="titles", source="liked_images"),
        )
    )
    write_dataset(tmp_path / "data", schema=schema)
    titles = write_store(tmp_path / "data" / "titles.h5", FEATURES[:, :4] + 1)
    set_image_store(tmp_path / "data", "titles.h5", "titles")
    samples = Samples.open(tmp_path / "data")
    widths = {"images": 5, "titles": 4}
    directory, _ = write_run(tmp_path / "run", samples, image_width=widths)
    assert directory.read_config().image_width == widths == image_width(open_stores(samples))
    model, *_ = load_run(directory)
    out = tmp_path / "export"
    description = export(model, schema, out)
    embed = {"embed_images_images", "embed_images_titles"}
    assert description["signatures"].keys() == {"serving_default", "predict", "score_ads", *embed}
    assert description["images"]["titles"]["features"] == 4
    differences = check_export(out, model, schema, first_records(samples, "test", 20))
    assert max(differences.values()) <= 1e-5
    served = tf.saved_model.load(str(out)).signatures["embed_images_titles"]
    new = served(features=tf.constant(titles.read([3])))["embeddings"]
    want = model.image_embeddings["titles"](tf.constant([3], tf.int64))
    np.testing.assert_allclose(new, want, rtol=1e-5)
    other = dataclasses.replace(directory.read_config(), image_width={"images": 5, "titles": 3})
    with pytest.raises(
        ConfigError, match="takes 3 features an image, but the image store 'titles'"
    ):
        make_model(other, schema, open_stores(samples))
