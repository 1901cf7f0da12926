"""A small gRPC server that speaks TF Serving's protocol: the real protos, the real wire.

TF Serving's own binary cannot be had where the tests run. This one holds a loaded export and
answers `PredictRequest` and `GetModelMetadata` as it does: inputs by name, any signature, errors as
gRPC codes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as service


class _Servicer(service.PredictionServiceServicer):
    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._model = tf.saved_model.load(path)
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            content = saved_model_pb2.SavedModel.FromString(file.read())
        self._signature_defs = content.meta_graphs[0].signature_def

    def Predict(self, request, context):
        if request.model_spec.name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        # What TF Serving takes if none is named.
        name = request.model_spec.signature_name or "serving_default"
        if name not in self._model.signatures:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no signature {name}")
        inputs = {key: tf.constant(tf.make_ndarray(p)) for key, p in request.inputs.items()}
        try:
            outputs = self._model.signatures[name](**inputs)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, " ".join(str(error).split())[:1000])
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = self._name, name
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response

    def GetModelMetadata(self, request, context):
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self._name
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self._signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response


@contextlib.contextmanager
def model_server(
    name: str, path: str | os.PathLike[str]
) -> Iterator[service.PredictionServiceStub]:
    """Serves an export on loopback for the length of a block; gives a stub that talks to it."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service.add_PredictionServiceServicer_to_server(_Servicer(name, os.fspath(path)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield service.PredictionServiceStub(channel)
    finally:
        server.stop(None).wait()
