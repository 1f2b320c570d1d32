"""Adopted repositories of each version, in the real Triton, with clients of that version: one that
sends all inputs, and `TextClient` and `EngineClient`, which are like NVIDIA's scripts."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from click.testing import CliRunner

from harness import Server, joined, launched
from nvidia_client import EngineClient, TextClient, infer, text_shapes
from texts import HARD_TEXTS
from trt_tokenizers.cli.main import main
from trt_tokenizers.repository.schemas import VERSIONS, schema
from trt_tokenizers.tokenizers.base import TokenizerSettings
from trt_tokenizers.tokenizers.registry import create
from upstream import filled_by_readme, set_bls_version, tensor, with_replay

pytestmark = pytest.mark.triton

TEXT = "".join(HARD_TEXTS)
#: Inputs that clients of any version usually send.
USUAL: dict[str, Any] = {
    "bad_words": "", "stop_words": "", "pad_id": 0, "end_id": 2, "top_k": 1, "top_p": 0.0,
    "temperature": 1.0, "length_penalty": 1.0, "repetition_penalty": 1.0, "min_length": 1,
    "min_tokens": 1, "presence_penalty": 0.0, "random_seed": 0, "seed": 0, "beam_width": 1,
    "return_log_probs": False, "return_context_logits": False, "return_generation_logits": False,
}  # fmt: skip
_NUMPY = {"UINT32": np.uint32, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32,
          "BOOL": np.bool_, "BYTES": np.object_}  # fmt: skip


class Client:
    """Sends tensors of the types in the version's contract."""

    def __init__(self, server: Server, version: str) -> None:
        self.server, self.version = server, version
        inputs = map(tensor, schema(version)["ensemble"]["inputs"])
        self.types = {t["name"]: t["type"].removeprefix("TYPE_") for t in inputs}
        self.outputs = [tensor(o)["name"] for o in schema(version)["ensemble"]["outputs"]]

    def inputs(self, **values: Any) -> list[grpcclient.InferInput]:
        made = []
        for name, value in {**USUAL, **values}.items():
            if name not in self.types:
                continue
            kind = self.types[name].replace("STRING", "BYTES")
            its = grpcclient.InferInput(name, [1, 1], kind)
            value = value.encode() if isinstance(value, str) else value
            its.set_data_from_numpy(np.array([[value]], dtype=_NUMPY[kind]))
            made.append(its)
        return made

    def ask(self, count: int, request_id: str, **values: Any) -> list[list[dict[str, Any]]]:
        """Send *count* equal requests at once; the responses to each."""
        answers: queue.Queue[Any] = queue.Queue()
        got: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        with grpcclient.InferenceServerClient(self.server.grpc) as client:
            client.start_stream(callback=lambda result, error: answers.put((result, error)))
            for number in range(count):
                client.async_stream_infer(
                    "ensemble", self.inputs(**values),
                    request_id=request_id and f"{request_id}-{number}",
                    enable_empty_final_response=True,
                    outputs=[grpcclient.InferRequestedOutput(o) for o in self.outputs],
                )  # fmt: skip
            open_ = count
            while open_:
                result, error = answers.get(timeout=60)
                assert error is None, error
                response = result.get_response()
                outputs = {o.name: result.as_numpy(o.name) for o in response.outputs}
                if outputs:
                    got[int(response.id.rpartition("-")[2] or 0)].append(outputs)
                open_ -= response.parameters["triton_final_response"].bool_param
            client.stop_stream()
        return got


@pytest.fixture(scope="module", params=VERSIONS)
def client(
    request: pytest.FixtureRequest, bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    version = request.param
    folder = tmp_path_factory.mktemp(f"adopted-{version}")
    with launched(adopted(folder / "repo", version, bpe_dir, "True"), folder) as server:
        yield Client(server, version)


def adopted(repository: Path, version: str, tokenizer_dir: Path, decoupled: str) -> Path:
    """A repository that was filled as the README of *version* says, and then adopted."""
    filled_by_readme(repository, version, tokenizer_dir, decoupled)
    with_replay(repository, echo=True)
    set_bls_version(repository, version)
    done = CliRunner().invoke(main, ["adopt", str(repository)])
    assert done.exit_code == 0, done.output
    return repository


@pytest.fixture
def script(client: Client) -> TextClient:
    return TextClient(client.server.grpc, client.version)


@pytest.fixture(scope="module")
def ids(bpe_dir: Path) -> list[int]:
    """Tokens of TEXT."""
    return list(create(TokenizerSettings(str(bpe_dir))).encode(TEXT))


@pytest.fixture(scope="module")
def count(ids: list[int]) -> int:
    return len(ids)


def test_streamed(client: Client, count: int) -> None:
    got = client.ask(8, "s", text_input=TEXT, max_tokens=count, stream=True)
    assert [joined(chunks) for chunks in got] == [TEXT] * 8
    assert min(map(len, got)) > 3


def test_whole(client: Client, count: int) -> None:
    """The answer begins with the prompt, which was the default of these versions."""
    got = client.ask(4, "w", text_input=TEXT, max_tokens=count)
    assert [joined(chunks) for chunks in got] == [TEXT + TEXT] * 4
    assert {len(chunks) for chunks in got} == {1}


def test_whole_without_a_request_id(client: Client, count: int) -> None:
    assert joined(client.ask(1, "", text_input=TEXT, max_tokens=count)[0]) == TEXT + TEXT


def test_the_prompt_is_left_out_if_a_client_asks_for_that(client: Client, count: int) -> None:
    if "exclude_input_in_output" not in client.types:
        pytest.skip("this version has no such input")
    asked = {"text_input": TEXT, "max_tokens": count, "exclude_input_in_output": True}
    assert joined(client.ask(1, "x", **asked)[0]) == TEXT
    assert joined(client.ask(1, "", **asked)[0]) == TEXT


def test_stop_words(client: Client, count: int) -> None:
    first, second = HARD_TEXTS[1][3:7], HARD_TEXTS[3][2:6]
    words = f"{first},{second}" if client.types["max_tokens"] == "UINT32" else first
    (got,) = client.ask(1, "t", text_input=TEXT, max_tokens=count, stream=True, stop_words=words)
    assert joined(got) == TEXT[: TEXT.index(first)]


def test_the_bls_model(client: Client) -> None:
    """It asks our models for every tensor that NVIDIA's have."""
    if client.version == "0.5":
        pytest.skip("this version has none")
    inputs = [
        each
        for each in client.inputs(text_input="one two", max_tokens=64)
        if each.name() in ("text_input", "max_tokens", "bad_words", "stop_words")
    ]
    with grpcclient.InferenceServerClient(client.server.grpc) as server:
        answer = server.infer("tensorrt_llm_bls", inputs)
    assert b"one two" in answer.as_numpy("text_output").ravel()[0]


def test_fewer_tokens(client: Client) -> None:
    (got,) = client.ask(1, "f", text_input="one two three four", max_tokens=3, stream=True)
    whole = "one two three four"
    assert 0 < len(joined(got)) < len(whole)
    assert whole.startswith(joined(got))


def test_log_probs_and_indices(client: Client) -> None:
    if "output_log_probs" not in client.outputs:
        pytest.skip("this version has none")
    asked = {"text_input": "one two", "max_tokens": 5, "stream": True, "return_log_probs": True}
    (got,) = client.ask(1, "l", **asked)
    assert sum(float(chunk["output_log_probs"].sum()) for chunk in got) < 0
    assert not any("batch_index" in chunk for chunk in got), "sent for several texts only"


def test_http_and_messages(client: Client) -> None:
    """The adopted ensemble also takes messages."""
    message = '[{"role": "user", "content": "Hello"}]'
    status, answer = client.server.generate({"messages": message, "max_tokens": 64})
    assert status == 200, answer
    assert "Hello" in answer["text_output"]
    status, answer = client.server.generate({"text_input": "", "max_tokens": 5})
    assert status == 400
    assert "the prompt is empty" in answer["error"]


def test_the_script_streams(script: TextClient, count: int) -> None:
    answer = script.ask(TEXT, TEXT, streaming=True, output_len=count, request_id="s")
    assert answer.texts == [[TEXT], [TEXT]]
    assert text_shapes(answer) == {(1,)}


def test_the_script_reads_a_whole_answer(script: TextClient, count: int) -> None:
    answer = script.ask(TEXT, output_len=count)
    assert answer.texts == [[TEXT + TEXT]]
    assert text_shapes(answer) == {(1,)}


def test_the_script_reads_log_probs(script: TextClient) -> None:
    if "return_log_probs" not in script.types:
        pytest.skip("this version has none")
    (arrays,) = script.ask("one two", output_len=2, return_log_probs=True).responses
    assert arrays["cum_log_probs"].shape == (1, 1)
    assert arrays["output_log_probs"].ndim == 3
    assert arrays["output_log_probs"].shape[:2] == (1, 1)


def test_the_script_sends_batch_inputs(script: TextClient) -> None:
    if not script.named:
        pytest.skip("this version's script has no --batch-inputs with batch_index")
    prompts = ("one two three", "four five six seven")
    answer = script.ask(
        *prompts, streaming=True, batch_inputs=True, output_len=64, exclude_input_in_output=True
    )
    assert answer.texts == [[prompt] for prompt in prompts]
    assert text_shapes(answer) == {(1,)}


def test_rows_and_beams(script: TextClient) -> None:
    """postprocessing, asked directly as the BLS model does: one dimension, rows times beams."""
    types = {t["name"] for t in map(tensor, schema(script.version)["postprocessing"]["inputs"])}
    words = [[[40, 41, 42], [43, 44, 0]], [[45, 46, 47], [48, 0, 0]]]
    values = {"TOKENS_BATCH": np.array(words, dtype=np.int32)}
    if "SEQUENCE_LENGTH" in types:
        values["SEQUENCE_LENGTH"] = np.array([[3, 2], [3, 1]], dtype=np.int32)
    inputs = []
    for name, array in values.items():
        inputs.append(grpcclient.InferInput(name, array.shape, "INT32"))
        inputs[-1].set_data_from_numpy(array)
    script.model = "postprocessing"
    (arrays,) = script.stream(inputs, ["OUTPUT"], "")
    assert arrays["OUTPUT"].shape == (4,)


@pytest.mark.parametrize("version", ["0.5", "1.2"])
def test_models_that_are_not_decoupled(
    version: str, bpe_dir: Path, tmp_path: Path, ids: list[int]
) -> None:
    """Whole answers by ModelInfer, of tensorrt_llm and of the ensemble."""
    with launched(adopted(tmp_path / "repo", version, bpe_dir, "False"), tmp_path) as server:
        answer = EngineClient(server.grpc, version).ask(
            ids, end_id=2, pad_id=2, output_len=len(ids)
        )
        if "sequence_length" in answer.responses[0]:
            assert answer.ids == [ids]
        else:  # 0.5 pads with the end id
            assert answer.ids[0][: len(ids)] == ids
        for module in (httpclient, grpcclient):
            text = infer(server, module, version, text_input=TEXT, max_tokens=len(ids))
            assert text.shape == (1,)
            assert text[0].decode() == TEXT + TEXT


@pytest.mark.parametrize("version", ["0.5", "1.2"])
def test_generated(version: str, bpe_dir: Path, tmp_path: Path, count: int) -> None:
    """A repository that generate made for the C++ backend, with its tokenizer, works elsewhere."""
    made, repository = tmp_path / "made", tmp_path / "repo"
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(bpe_dir, tokenizer)
    flags = ("--engine-dir", "/engines/e", "--tensorrt-llm-version", version, "--copy-tokenizer",
             "--tokenizer-dir", str(tokenizer), "--output", str(made))  # fmt: skip
    done = CliRunner().invoke(main, ["generate", "--engine", "tensorrtllm", *flags])
    assert done.exit_code == 0, done.output
    made.rename(repository)
    shutil.rmtree(tokenizer)
    with launched(with_replay(repository, echo=version == "0.5"), tmp_path) as server:
        client = Client(server, version)
        asked = {"text_input": TEXT, "max_tokens": count}
        assert [joined(c) for c in client.ask(4, "s", **asked, stream=True)] == [TEXT] * 4
        assert [joined(c) for c in client.ask(4, "w", **asked)] == [TEXT] * 4
