"""A model repository's ensemble in this process, on the double of Triton's Python module.

It does what Triton does between the models: it maps tensors by config.pbtxt, passes on request ids,
``sequence_id`` and flags, and gives every response of the engine to postprocessing, in order.
"""

from __future__ import annotations

import json
import queue
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from google.protobuf.json_format import MessageToJson

from trt_tokenizers import backend
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.wiring import Wiring


@dataclass
class Client:
    """A client's request and what it has received so far."""

    body: dict[str, Any]
    request_id: str = ""
    cancelled: bool = False
    chunks: list[dict[str, Any]] = field(default_factory=list)
    error: Any = None
    failed_by: str = ""  # the model whose response has the error
    #: The last response of the engine has flags that say so; Triton 25.02 and newer.
    sequence_end: bool = False

    @property
    def text(self) -> str:
        return b"".join(chunk["text_output"].item() for chunk in self.chunks).decode()

    @property
    def finish_reason(self) -> str:
        return str(self.chunks[-1]["finish_reason"].item().decode())


def arguments(name: str, folder: Path, config: Any) -> dict[str, str]:
    """What Triton gives to a model's initialize()."""
    text = MessageToJson(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {
        "model_config": text,
        "model_name": name,
        "model_instance_name": f"{name}_0",
        "model_repository": str(folder),
    }


class InProcessTriton:
    """The three models of a repository, loaded."""

    def __init__(self, repository: Path, engine: type[backend.EngineModel]) -> None:
        self.configs = {
            path.parent.name: parse_config(path.read_text())
            for path in repository.glob("*/config.pbtxt")
        }
        ensemble = self.configs.pop("ensemble")
        self._wiring = Wiring(lambda name: self.configs.get(name, ensemble), repository)
        self._outputs = {output.name for output in ensemble.output}
        self.preprocessing = backend.PreprocessingModel()
        self.engine = engine()
        self.postprocessing = backend.PostprocessingModel()
        self.models = {
            "preprocessing": self.preprocessing,
            "tensorrt_llm": self.engine,
            "postprocessing": self.postprocessing,
        }
        for name, model in self.models.items():
            model.initialize(arguments(name, repository / name, self.configs[name]))
        pb_utils.MODELS["tensorrt_llm"] = self._ask_engine
        self._running: list[tuple[Client, Any, int, dict[str, Any]]] = []

    def run(self, *clients: Client) -> None:
        """Serve the requests to their ends."""
        self.start(*clients)
        while self._running:
            self.step()

    def start(self, *clients: Client) -> None:
        """Give the requests to preprocessing, in one batch, and then to the engine."""
        pools = [self._wiring.tensors(client.body) for client in clients]
        requests = [
            self._request("preprocessing", pool, request_id=client.request_id)
            for client, pool in zip(clients, pools, strict=True)
        ]
        responses = self.preprocessing.execute(requests)
        for client, pool, response in zip(clients, pools, responses, strict=True):
            if response.has_error():
                client.error, client.failed_by = response.error(), "preprocessing"
                continue
            key = json.loads(response.parameters()).get("sequence_id", 0)
            pool |= self._mapped("preprocessing", response)
            request = self._request(
                "tensorrt_llm", pool, request_id=client.request_id, correlation_id=key
            )
            self.engine.execute([request])
            self._running.append((client, request.get_response_sender(), key, pool))

    def step(self) -> None:
        """Give the next response of each running request to postprocessing."""
        for entry in list(self._running):
            client, sender, key, pool = entry
            try:
                response, flags = sender.sent.get(timeout=20)
            except queue.Empty:
                raise AssertionError("the engine has not answered for 20 s") from None
            if flags:
                self._running.remove(entry)
            if response is None:  # never reaches postprocessing
                continue
            if response.has_error():
                client.error, client.failed_by = response.error(), "tensorrt_llm"
                continue
            ends = bool(flags) and client.sequence_end
            request = self._request(
                "postprocessing",
                pool | self._mapped("tensorrt_llm", response),
                request_id=client.request_id,
                correlation_id=key,
                flags=pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if ends else 0,
            )
            request.cancelled = client.cancelled
            (answer,) = self.postprocessing.execute([request])
            if answer.has_error():
                client.error, client.failed_by = answer.error(), "postprocessing"
                continue
            arrays = self._mapped("postprocessing", answer)
            client.chunks.append({n: array for n, array in arrays.items() if n in self._outputs})

    def finalize(self) -> None:
        for model in self.models.values():
            model.finalize()

    def _ask_engine(self, request: Any) -> Any:
        """The answer to a request from another model."""
        self.engine.execute([request])
        flags = 0
        while not flags:
            response, flags = request.get_response_sender().sent.get(timeout=20)
            yield response

    def _request(self, model: str, pool: dict[str, Any], **more: Any) -> Any:
        inputs = self._wiring.inputs(model, pool)
        return pb_utils.InferenceRequest(
            [pb_utils.Tensor(name, array) for name, array in inputs.items()],
            requested_output_names=list(self._wiring.steps[model].output_map),
            **more,
        )

    def _mapped(self, model: str, response: Any) -> dict[str, Any]:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        return self._wiring.outputs(model, tensors)
