"""An export as its users meet it: through gRPC, through saved_model_cli."""

import os
import re
import subprocess
import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from amstf.data import parse_batch
from amstf.export import export, input_names
from models import Dicm, build, image_tower
from tests.exports import FEATURES, write_dataset, write_store
from tests.helpers import CLICK_SCHEMA
from tests.model_server import model_server

NAMES = input_names(CLICK_SCHEMA)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    store = write_store(directory / "images.h5")
    model = build(Dicm(CLICK_SCHEMA, store, image_tower((4, 3)), hidden=(6,)), CLICK_SCHEMA)
    rng = np.random.default_rng(5)
    model.set_weights([w + rng.normal(0, 0.3, size=w.shape) for w in model.get_weights()])
    export(model, CLICK_SCHEMA, directory / "1")
    samples = write_dataset(directory / "data", count=20)
    return model, directory / "1", samples


@pytest.fixture(scope="module")
def stub(served):
    with model_server("click", served[1]) as stub:
        yield stub


def predict(stub, inputs, signature="", name="click"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    response = stub.Predict(request, timeout=60)
    return {key: tf.make_ndarray(value) for key, value in response.outputs.items()}


def test_all_signatures_answer_through_grpc(served, stub):
    model, _, samples = served
    records = [r for path in samples.files("test")
               for r in tf.data.TFRecordDataset(path).as_numpy_iterator()]  # fmt: skip
    batch = parse_batch(tf.constant(records), CLICK_SCHEMA.inputs)
    batch = {key: value.numpy() for key, value in batch.items()}
    want = model(batch).numpy()
    assert want.std() > 0.01
    # Examples under no name, since that is the default.
    got = predict(stub, {"examples": np.array(records, object)})["click_probability"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    named = {NAMES[key]: value for key, value in batch.items()}
    got = predict(stub, named, "predict")["click_probability"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    # One user, the ads of all.
    sides = {NAMES[key]: f.side for f in CLICK_SCHEMA.inputs for key in (f.name, f.weight_name)
             if key in NAMES}  # fmt: skip
    view = {key: value[3:4] if sides[key] == "user" else value for key, value in named.items()}
    repeated = {
        key: np.repeat(value[3:4], 20, axis=0) if sides[NAMES[key]] == "user" else value
        for key, value in batch.items()
    }
    got = predict(stub, view, "score_ads")["click_probability"]
    np.testing.assert_allclose(got, model(repeated), rtol=0, atol=1e-6)
    got = predict(stub, {"features": FEATURES[:4]}, "embed_images")["embeddings"]
    layer = model.image_embeddings["images"]
    np.testing.assert_allclose(got, layer(np.arange(4)), rtol=0, atol=1e-6)


def test_wrong_requests_are_answered_with_what_is_wrong(stub):
    for arguments, code, message in (
        (({}, "", "other"), grpc.StatusCode.NOT_FOUND, "Servable not found"),
        (({}, "rank"), grpc.StatusCode.INVALID_ARGUMENT, "no signature rank"),
        (({"user": [1]}, "predict"), grpc.StatusCode.INVALID_ARGUMENT, "missing a required"),
        (
            ({"examples": np.array([b"x"], object)},),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Could not parse example",
        ),
    ):
        with pytest.raises(grpc.RpcError) as error:
            predict(stub, *arguments)
        assert error.value.code() == code
        assert message in error.value.details()


def test_the_server_tells_what_the_signatures_take(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "click"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(request, timeout=60).metadata["signature_def"].Unpack(signatures)
    of = signatures.signature_def
    assert set(of) >= {"serving_default", "predict", "score_ads", "embed_images"}
    assert of["predict"].method_name == "tensorflow/serving/predict"
    assert set(of["predict"].inputs) == set(NAMES.values())
    shape = of["score_ads"].inputs["liked_images"].tensor_shape
    assert [size.size for size in shape.dim] == [1, -1]


def test_saved_model_cli_shows_it_and_finds_stock_ops_only(served):
    _, path, _ = served
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    cli = "from tensorflow.python.tools.saved_model_cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", cli, "show", "--dir", str(path), "--all"],
        cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"signature_def\['(\w+)'\]", done.stdout)
    assert {"serving_default", "predict", "score_ads", "embed_images"} <= set(shown)
    assert "['examples'] tensor_info" in done.stdout
    ops = re.findall(r"'(\w+)'", re.search(r"following ops: \{(.*?)\}", done.stdout)[1])
    assert len(ops) > 10
    assert [op for op in ops if not hasattr(tf.raw_ops, op)] == []
