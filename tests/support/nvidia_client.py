"""Clients that send and read what NVIDIA's own client scripts send and read.

NVIDIA's ``end_to_end_grpc_client.py`` (text, to the ensemble) and
``inflight_batcher_llm_client.py`` (token ids, to ``tensorrt_llm``) are not on PyPI. These classes
behave like them on the wire: the tensors, the requested outputs, how the stream is closed, and how
each output is indexed.
Unlike the scripts, they raise the errors that the server sends.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from harness import Server
from trt_tokenizers.repository.schemas import schema
from upstream import tensor

_NUMPY = {"UINT32": np.uint32, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32,
          "BOOL": np.bool_, "BYTES": np.object_}  # fmt: skip
#: The first version whose text client requests outputs by name and has batches and sequences.
_NAMED_OUTPUTS_SINCE = (0, 17)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Options:
    """Options of the scripts, with the scripts' defaults."""

    output_len: int = 100
    streaming: bool = False
    beam_width: int = 1
    temperature: float = 1.0
    batch_inputs: bool = False
    num_return_sequences: int | None = None
    exclude_input_in_output: bool = False
    return_log_probs: bool = False
    return_context_logits: bool = False
    end_id: int | None = None
    pad_id: int | None = None
    stop_words: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    request_id: str = ""


@dataclass
class Answer:
    """Texts or ids by prompt and sequence, and every response's arrays in order."""

    texts: list[list[str]] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    responses: list[Arrays] = field(default_factory=list)


def text_shapes(answer: Answer) -> set[tuple[int, ...]]:
    return {arrays["text_output"].shape for arrays in answer.responses}


class _Client:
    """Sends the tensors that one model of one version has, with that version's types."""

    def __init__(self, url: str, version: str, model: str) -> None:
        self.url, self.version, self.model = url, version, model
        inputs = map(tensor, schema(version)[model]["inputs"])
        self.types = {t["name"]: t["type"].removeprefix("TYPE_") for t in inputs}

    def tensors(self, rows: list[dict[str, Any]]) -> list[grpcclient.InferInput]:
        """Inputs of shape [rows, values]; None and names that the version lacks are left out."""
        made = []
        for name in rows[0]:
            if name not in self.types or rows[0][name] is None:
                continue
            kind = self.types[name].replace("STRING", "BYTES")
            values = [v if isinstance(v, (list, tuple)) else [v] for v in (r[name] for r in rows)]
            array = np.array(values, dtype=_NUMPY[kind])
            its = grpcclient.InferInput(name, array.shape, kind)
            its.set_data_from_numpy(array)
            made.append(its)
        return made

    def stream(
        self, inputs: list[grpcclient.InferInput], outputs: list[str] | None, request_id: str
    ) -> list[Arrays]:
        """Send one request, close the client's half of the stream at once, read until its end."""
        results: queue.Queue[Any] = queue.Queue()
        with grpcclient.InferenceServerClient(self.url) as client:
            client.start_stream(callback=lambda result, error: results.put((result, error)))
            wanted = outputs and [grpcclient.InferRequestedOutput(name) for name in outputs]
            client.async_stream_infer(self.model, inputs, outputs=wanted, request_id=request_id)
            client.stop_stream()
        return [_arrays(*results.get()) for _ in range(results.qsize())]

    def infer(self, inputs: list[grpcclient.InferInput], request_id: str) -> list[Arrays]:
        """One ModelInfer call, which only a model that is not decoupled answers."""
        results: queue.Queue[Any] = queue.Queue()
        with grpcclient.InferenceServerClient(self.url) as client:
            client.async_infer(
                self.model, inputs, request_id=request_id, parameters={"Streaming": False},
                callback=lambda result, error: results.put((result, error)),
            )  # fmt: skip
            return [_arrays(*results.get(timeout=60))]


class TextClient(_Client):
    """Asks the ensemble as ``end_to_end_grpc_client.py`` does."""

    def __init__(self, url: str, version: str, model: str = "ensemble") -> None:
        super().__init__(url, version, model)
        self.named = tuple(map(int, version.split("."))) >= _NAMED_OUTPUTS_SINCE

    def ask(self, *prompts: str, **options: Any) -> Answer:
        """Send each prompt in its own request, or all in one with ``batch_inputs``."""
        its = Options(**options)
        rows = [self._row(prompt, its) for prompt in prompts]
        requests = [rows] if its.batch_inputs else [[row] for row in rows]
        answer = Answer()
        for request in requests:
            wanted = self._outputs(its) if self.named else None
            responses = self.stream(self.tensors(request), wanted, its.request_id)
            answer.responses += responses
            answer.texts += self._texts(responses, len(request), its)
        return answer

    def _row(self, prompt: str, its: Options) -> dict[str, Any]:
        # Version 0.5 needs the words; later scripts send them only if there are any.
        no_words = [""] if self.version == "0.5" else None
        return {
            "text_input": prompt, "max_tokens": its.output_len, "stream": its.streaming,
            "beam_width": its.beam_width, "temperature": its.temperature,
            "num_return_sequences": its.num_return_sequences,
            "bad_words": its.bad_words or no_words, "stop_words": its.stop_words or no_words,
            "return_log_probs": its.return_log_probs or None,
            "return_context_logits": its.return_context_logits or None,
            "end_id": its.end_id, "pad_id": its.pad_id,
            "exclude_input_in_output": its.exclude_input_in_output,
        }  # fmt: skip

    def _outputs(self, its: Options) -> list[str]:
        names = ["text_output"]
        names += ["cum_log_probs", "output_log_probs"] if its.return_log_probs else []
        names += ["context_logits"] if its.return_context_logits else []
        names += ["sequence_index"] if (its.num_return_sequences or 1) > 1 else []
        return names + (["batch_index"] if its.batch_inputs else [])

    @staticmethod
    def _texts(responses: list[Arrays], rows: int, its: Options) -> list[list[str]]:
        texts = [[""] * (its.num_return_sequences or its.beam_width) for _ in range(rows)]
        for arrays in responses:
            text = arrays["text_output"][0].decode("utf-8")
            row, sequence = _index(arrays, "batch_index"), _index(arrays, "sequence_index")
            if its.streaming and its.beam_width == 1:
                text = texts[row][sequence] + text
            texts[row][sequence] = text
        return texts


class EngineClient(_Client):
    """Asks ``tensorrt_llm`` as ``inflight_batcher_llm_client.py`` does."""

    def __init__(self, url: str, version: str, model: str = "tensorrt_llm") -> None:
        super().__init__(url, version, model)

    def ask(self, input_ids: list[int], *, end_id: int, pad_id: int, **options: Any) -> Answer:
        """Answer ids by sequence, without the prompt unless the engine wrongly leaves it out."""
        its = Options(**{"output_len": 16, **options})
        inputs = self.tensors([{
            "input_ids": input_ids, "input_lengths": len(input_ids),
            "request_output_len": its.output_len, "beam_width": its.beam_width,
            "temperature": its.temperature, "streaming": its.streaming, "end_id": end_id,
            "pad_id": pad_id, "runtime_top_k": 1, "runtime_top_p": 0.0,
            "num_return_sequences": its.num_return_sequences,
            "return_log_probs": its.return_log_probs or None,
            # The script sends only true, and leaves out the prompt's length if it did not.
            "exclude_input_in_output": its.exclude_input_in_output or None,
        }])  # fmt: skip
        if its.streaming or its.num_return_sequences is not None:
            responses = self.stream(inputs, None, its.request_id)
        else:
            responses = self.infer(inputs, its.request_id)
        answer = Answer(responses=responses)
        prompt = 0 if its.exclude_input_in_output or its.streaming else len(input_ids)
        answer.ids = [[] for _ in range(its.num_return_sequences or its.beam_width)]
        for arrays in responses:
            sequence = _index(arrays, "sequence_index")
            for beam in range(its.beam_width):
                length = arrays["sequence_length"][0][beam] if "sequence_length" in arrays else None
                answer.ids[sequence + beam] += arrays["output_ids"][0][beam][:length].tolist()
        answer.ids = [ids[prompt:] for ids in answer.ids]
        return answer


def _arrays(result: Any, error: Any) -> Arrays:
    """A response's outputs by name."""
    if error is not None:
        raise error
    return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


def _index(arrays: Arrays, name: str) -> int:
    """A row's or sequence's index, which a response need not have."""
    return int(arrays[name][0][0]) if name in arrays else 0


def infer(server: Server, module: Any, version: str, *, text_input: str, max_tokens: int) -> Any:
    """The ensemble's text, by ``infer`` of tritonclient's *module*, HTTP or gRPC."""
    kinds = {t["name"]: t["type"] for t in map(tensor, schema(version)["ensemble"]["inputs"])}
    address = server.grpc if module is grpcclient else server.http.removeprefix("http://")
    count = np.uint32 if kinds["max_tokens"] == "TYPE_UINT32" else np.int32
    arrays = {
        "text_input": np.array([[text_input.encode()]], dtype=np.object_),
        "max_tokens": np.array([[max_tokens]], dtype=count),
    }
    if version == "0.5":
        arrays |= {n: np.array([[b""]], dtype=np.object_) for n in ("bad_words", "stop_words")}
    inputs = []
    for name, array in arrays.items():
        kind = kinds[name].removeprefix("TYPE_").replace("STRING", "BYTES")
        inputs.append(module.InferInput(name, array.shape, kind))
        inputs[-1].set_data_from_numpy(array)
    with module.InferenceServerClient(address) as client:
        return client.infer("ensemble", inputs).as_numpy("text_output")
