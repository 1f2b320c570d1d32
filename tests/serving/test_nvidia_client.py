"""What NVIDIA's own client scripts get, from generated repositories and adopted ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from applicable import needs_engine
from harness import Server, generate, launched
from nvidia_client import Answer, EngineClient, TextClient
from texts import HARD_TEXTS
from trt_tokenizers.cli.main import main
from trt_tokenizers.repository.schemas import VERSIONS, schema
from trt_tokenizers.tokenizers.base import Tokenizer, TokenizerSettings
from trt_tokenizers.tokenizers.registry import create
from upstream import tensor, upstream_repository, with_replay

pytestmark = pytest.mark.triton

PROMPTS = ("The capital of France is", "Once upon a time")
#: Newest scripts; a generated repository has the names and types of this version.
NEWEST = "1.2"
TEXT = "".join(HARD_TEXTS)
#: Greedy, also where a temperature alone means sampling.
GREEDY = {"temperature": 0.0}


def text_shapes(answer: Answer) -> set[tuple[int, ...]]:
    return {arrays["text_output"].shape for arrays in answer.responses}


def infer(server: Server, module: Any, version: str, **values: Any) -> Any:
    """`infer` of tritonclient's *module*, HTTP or gRPC, with a version's types."""
    kinds = {t["name"]: t["type"] for t in map(tensor, schema(version)["ensemble"]["inputs"])}
    address = server.grpc if module is grpcclient else server.http.removeprefix("http://")
    count = np.uint32 if kinds["max_tokens"] == "TYPE_UINT32" else np.int32
    arrays = {
        "text_input": np.array([[values["text_input"].encode()]], dtype=np.object_),
        "max_tokens": np.array([[values["max_tokens"]]], dtype=count),
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


# --- A generated repository, SmolLM2 on the engine transformers ---


@pytest.fixture(scope="module")
def streaming(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `generate` makes it, without an option."""
    needs_engine()
    folder = tmp_path_factory.mktemp("generated")
    with launched(generate(folder / "repo", "--model", str(smollm2)), folder) as server:
        yield server


@pytest.fixture(scope="module")
def whole(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Not decoupled."""
    needs_engine()
    folder = tmp_path_factory.mktemp("generated-whole")
    model = ("--model", str(smollm2), "--set", "decoupled_mode=false")
    with launched(generate(folder / "repo", *model), folder) as server:
        yield server


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return create(TokenizerSettings(str(smollm2)))


@pytest.fixture(scope="module")
def answers(streaming: Server) -> list[str]:
    """Each prompt's greedy answer of 12 tokens, by HTTP and without the prompt."""
    return [
        streaming.ask({"text_input": prompt, "max_tokens": 12})["text_output"] for prompt in PROMPTS
    ]


def ask(server: Server, *prompts: str, **options: Any) -> Answer:
    client = TextClient(server.grpc, NEWEST)
    return client.ask(*prompts, **{"output_len": 12, **GREEDY, **options})


@pytest.mark.model
def test_generated_stream_has_no_prompt(streaming: Server, answers: list[str]) -> None:
    """The script sends exclude_input_in_output false and expects the new text only."""
    answer = ask(streaming, *PROMPTS, streaming=True)
    assert answer.texts == [[text] for text in answers]
    assert len(answer.responses) > 4
    assert text_shapes(answer) == {(1,)}


@pytest.mark.model
def test_generated_whole_answer_begins_with_the_prompt(
    streaming: Server, answers: list[str]
) -> None:
    answer = ask(streaming, *PROMPTS)
    assert answer.texts == [[p + text] for p, text in zip(PROMPTS, answers, strict=True)]
    assert text_shapes(answer) == {(1,)}


@pytest.mark.model
@pytest.mark.parametrize("streams", [False, True])
def test_generated_prompt_excluded(streaming: Server, answers: list[str], streams: bool) -> None:
    answer = ask(streaming, *PROMPTS, streaming=streams, exclude_input_in_output=True)
    assert answer.texts == [[text] for text in answers]


@pytest.mark.model
def test_generated_batch_inputs(streaming: Server, answers: list[str]) -> None:
    """Each response of a stream holds one row's text; batch_index [1, 1] says whose."""
    answer = ask(
        streaming, *PROMPTS, streaming=True, batch_inputs=True, exclude_input_in_output=True
    )
    assert answer.texts == [[text] for text in answers]
    assert text_shapes(answer) == {(1,)}
    assert {arrays["batch_index"].shape for arrays in answer.responses} == {(1, 1)}


@pytest.mark.model
def test_generated_several_sequences(streaming: Server, answers: list[str]) -> None:
    answer = ask(streaming, PROMPTS[0], streaming=True, num_return_sequences=2)
    assert answer.texts == [[answers[0]] * 2]
    assert {arrays["sequence_index"].shape for arrays in answer.responses} == {(1, 1)}


@pytest.mark.model
def test_generated_log_probs(streaming: Server) -> None:
    """[1, beams] and [1, beams, tokens], as the C++ backend gives them."""
    answer = ask(streaming, PROMPTS[0], return_log_probs=True, exclude_input_in_output=True)
    (arrays,) = answer.responses
    assert arrays["cum_log_probs"].shape == (1, 1)
    assert arrays["output_log_probs"].shape == (1, 1, 12)
    assert arrays["cum_log_probs"].item() == pytest.approx(arrays["output_log_probs"].sum())


@pytest.mark.model
def test_generated_stop_and_bad_words(streaming: Server, answers: list[str]) -> None:
    word = answers[0].split()[2]
    answer = ask(streaming, PROMPTS[0], streaming=True, stop_words=(word,), request_id="one")
    assert answer.texts == [[answers[0].split(word)[0]]]
    answer = ask(streaming, PROMPTS[0], streaming=True, bad_words=(f" {word}",))
    assert word not in answer.texts[0][0]


@pytest.mark.model
def test_generated_end_id(streaming: Server, tokenizer: Tokenizer, answers: list[str]) -> None:
    ids = tokenizer.encode(PROMPTS[0] + answers[0])[len(tokenizer.encode(PROMPTS[0])) :]
    answer = ask(streaming, PROMPTS[0], streaming=True, end_id=ids[4], pad_id=0)
    assert answer.texts == [[tokenizer.decode(ids[:4])]]


@pytest.mark.model
def test_generated_refuses_logits_by_name(streaming: Server) -> None:
    """Sent without naming the output, as scripts before 0.17 do; Triton itself checks names."""
    client = TextClient(streaming.grpc, NEWEST)
    client.named = False
    with pytest.raises(InferenceServerException, match="return_context_logits") as refused:
        client.ask(PROMPTS[0], return_context_logits=True)
    assert "unexpected inference input" not in str(refused.value)


def check_engine(server: Server, tokenizer: Tokenizer, text: str, *, streams: bool) -> None:
    """Ids in, ids out, with TensorRT-LLM's shapes."""
    answer = EngineClient(server.grpc, NEWEST).ask(
        list(tokenizer.encode(PROMPTS[0])), end_id=2, pad_id=2, output_len=12,
        streaming=streams, exclude_input_in_output=True,
    )  # fmt: skip
    assert tokenizer.decode(answer.ids[0]) == text
    for arrays in answer.responses:
        length = arrays["sequence_length"]
        assert length.shape == (1, 1)
        assert arrays["output_ids"].shape == (1, 1, length.item())


@pytest.mark.model
def test_generated_engine_streams(
    streaming: Server, tokenizer: Tokenizer, answers: list[str]
) -> None:
    check_engine(streaming, tokenizer, answers[0], streams=True)


@pytest.mark.model
def test_generated_engine_whole(whole: Server, tokenizer: Tokenizer, answers: list[str]) -> None:
    """By ModelInfer, which needs a model that is not decoupled."""
    check_engine(whole, tokenizer, answers[0], streams=False)


@pytest.mark.model
@pytest.mark.parametrize("module", [httpclient, grpcclient], ids=["http", "grpc"])
def test_generated_infer(whole: Server, answers: list[str], module: Any) -> None:
    text = infer(whole, module, NEWEST, text_input=PROMPTS[0], max_tokens=12)
    assert text.shape == (1,)
    assert text[0].decode() == answers[0]


# --- Adopted repositories; their engine repeats the prompt ---


def adopted(version: str, tokenizer_dir: Path, folder: Path, decoupled: bool) -> Path:
    values = {"decoupled_mode": str(decoupled)}
    repository = upstream_repository(folder / "repo", version, tokenizer_dir, **values)
    with_replay(repository, echo=True)
    done = CliRunner().invoke(main, ["adopt", str(repository)])
    assert done.exit_code == 0, done.output
    return repository


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def adopted_streaming(
    version: str, bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(f"adopted-{version}")
    with launched(adopted(version, bpe_dir, folder, True), folder) as server:
        yield server


@pytest.fixture(scope="module")
def adopted_whole(
    version: str, bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(f"adopted-whole-{version}")
    with launched(adopted(version, bpe_dir, folder, False), folder) as server:
        yield server


@pytest.fixture(scope="module")
def ids(bpe_dir: Path) -> list[int]:
    """Tokens of TEXT."""
    return list(create(TokenizerSettings(str(bpe_dir))).encode(TEXT))


def test_adopted_stream(adopted_streaming: Server, version: str, ids: list[int]) -> None:
    answer = TextClient(adopted_streaming.grpc, version).ask(
        TEXT, TEXT, streaming=True, output_len=len(ids), request_id="s"
    )
    assert answer.texts == [[TEXT], [TEXT]]
    assert text_shapes(answer) == {(1,)}


def test_adopted_whole(adopted_streaming: Server, version: str, ids: list[int]) -> None:
    answer = TextClient(adopted_streaming.grpc, version).ask(TEXT, output_len=len(ids))
    assert answer.texts == [[TEXT + TEXT]]
    assert text_shapes(answer) == {(1,)}


def test_adopted_log_probs(adopted_streaming: Server, version: str) -> None:
    client = TextClient(adopted_streaming.grpc, version)
    if "return_log_probs" not in client.types:
        pytest.skip("this version has none")
    (arrays,) = client.ask("one two", output_len=2, return_log_probs=True).responses
    assert arrays["cum_log_probs"].shape == (1, 1)
    assert arrays["output_log_probs"].ndim == 3
    assert arrays["output_log_probs"].shape[:2] == (1, 1)


def test_adopted_batch_inputs(adopted_streaming: Server, version: str) -> None:
    client = TextClient(adopted_streaming.grpc, version)
    if not client.named:
        pytest.skip("this version's script has no --batch-inputs with batch_index")
    prompts = ("one two three", "four five six seven")
    answer = client.ask(
        *prompts, streaming=True, batch_inputs=True, output_len=64, exclude_input_in_output=True
    )
    assert answer.texts == [[prompt] for prompt in prompts]
    assert text_shapes(answer) == {(1,)}


def test_adopted_rows_and_beams(adopted_streaming: Server, version: str) -> None:
    """postprocessing, asked directly as the BLS model does: one dimension, rows times beams."""
    types = {t["name"] for t in map(tensor, schema(version)["postprocessing"]["inputs"])}
    words = [[[40, 41, 42], [43, 44, 0]], [[45, 46, 47], [48, 0, 0]]]
    values = {"TOKENS_BATCH": np.array(words, dtype=np.int32)}
    if "SEQUENCE_LENGTH" in types:
        values["SEQUENCE_LENGTH"] = np.array([[3, 2], [3, 1]], dtype=np.int32)
    inputs = []
    for name, array in values.items():
        inputs.append(grpcclient.InferInput(name, array.shape, "INT32"))
        inputs[-1].set_data_from_numpy(array)
    client = TextClient(adopted_streaming.grpc, version)
    client.model = "postprocessing"
    (arrays,) = client.stream(inputs, ["OUTPUT"], "")
    assert arrays["OUTPUT"].shape == (4,)


def test_adopted_engine_and_infer(adopted_whole: Server, version: str, ids: list[int]) -> None:
    """Whole answers by ModelInfer, of tensorrt_llm and of the ensemble."""
    answer = EngineClient(adopted_whole.grpc, version).ask(
        ids, end_id=2, pad_id=2, output_len=len(ids)
    )
    if "sequence_length" in answer.responses[0]:
        assert answer.ids == [ids]
    else:  # 0.5 pads with the end id
        assert answer.ids[0][: len(ids)] == ids
    for module in (httpclient, grpcclient):
        text = infer(adopted_whole, module, version, text_input=TEXT, max_tokens=len(ids))
        assert text.shape == (1,)
        assert text[0].decode() == TEXT + TEXT
