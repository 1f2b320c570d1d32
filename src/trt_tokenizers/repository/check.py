"""A model repository, checked without a server: what would keep the ensemble from serving."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.base import ENGINES
from trt_tokenizers.engines.dispatcher import ServingSettings
from trt_tokenizers.errors import EngineError, TemplateError, TokenizerError, TrtTokenizersError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.processing.postprocess import PostprocessingSettings
from trt_tokenizers.processing.preprocess import PreprocessingSettings
from trt_tokenizers.repository.check_engines import engine_problems
from trt_tokenizers.repository.check_ensemble import EnsembleChecker
from trt_tokenizers.repository.nvidia_settings import ENGINE_PARAMETERS, UPSTREAM
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.repository.placeholders import PLACEHOLDER
from trt_tokenizers.repository.problems import Problem, line_of, parameter_line
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND
from trt_tokenizers.settings import MODEL_DIRECTORY, nearest, parse
from trt_tokenizers.streams.stream_key import StreamKeyTransport
from trt_tokenizers.templates.messages import parse_messages
from trt_tokenizers.templates.render import load as load_template
from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.registry import create

_TEXT = ("preprocessing", "postprocessing")
_BY_PARAMETER = {s.parameter: s for s in UPSTREAM.values() if "tensorrt_llm" in s.models}


def check(repository: Path, *, engines: bool = True) -> list[Problem]:
    """Everything that would keep the ensemble from serving, found without a server.

    Args:
        engines: look into the engines' folders too, which have to be on this machine.
    """
    if not repository.is_dir():
        return [Problem(repository, 1, "does not exist; make it with: trt-tokenizers generate")]
    problems: list[Problem] = []
    configs: dict[str, Any] = {}
    engine = _engine_name(repository)
    models = ("ensemble", "preprocessing", engine, "postprocessing")
    for name in models:
        path = repository / name / "config.pbtxt"
        if not path.is_file():
            problems.append(Problem(path, 1, f"is missing; the ensemble needs the model {name!r}"))
            continue
        text = path.read_text(encoding="utf-8")
        left = [
            Problem(path, number, f"{match[0]} was never filled; give it a value")
            for number, line in enumerate(text.splitlines(), 1)
            for match in PLACEHOLDER.finditer("" if line.lstrip().startswith("#") else line)
        ]
        problems += left
        if left:
            continue
        try:
            configs[name] = parse_config(text)
        except ValueError as error:
            line = re.search(r"(\d+):\d+", str(error))
            problems.append(Problem(path, int(line[1]) if line else 1, f"{error}; correct it"))
            continue
        problems += _check_model(path, name, configs[name])
        if name in _TEXT:
            problems += _check_batching(path, configs[name])
    if "ensemble" in configs:
        path = repository / "ensemble" / "config.pbtxt"
        problems += EnsembleChecker(path, configs, models).problems()
        problems += _check_batches(path, configs)
    if "postprocessing" in configs:
        path = repository / "postprocessing" / "config.pbtxt"
        problems += _check_order(path, configs["postprocessing"])
    problems += _check_text(repository, configs, engine)
    if engine in configs:
        path = repository / engine / "config.pbtxt"
        problems += _check_engine(path, configs[engine], configs)
        if engines and configs[engine].backend != "python":
            problems += _check_engine_folder(repository, path)
    return problems


def _engine_name(repository: Path) -> str:
    """The folder of the ensemble's engine: the one step that is none of the text models."""
    try:
        text = (repository / "ensemble" / "config.pbtxt").read_text(encoding="utf-8")
        steps = parse_config(text).ensemble_scheduling.step
    except (OSError, ValueError):  # reported as the ensemble's problem
        return "tensorrt_llm"
    found = {step.model_name for step in steps if (repository / step.model_name).is_dir()}
    others = sorted(found.difference(_TEXT))
    return str(others[0]) if len(others) == 1 else "tensorrt_llm"


def _check_model(path: Path, name: str, config: Any) -> Iterator[Problem]:
    """Its name, its files, and what runs it."""
    if config.name not in ("", name):
        yield Problem(
            path, line_of(path, "name:"),
            f"name is {config.name!r} and the folder {name!r}; make them equal",
        )  # fmt: skip
    versions = [p for p in path.parent.iterdir() if p.is_dir() and p.name.isdecimal()]
    if not versions:
        yield Problem(
            path, 1, f"model {name!r} has no version; make the folder {path.parent / '1'}"
        )
    elif config.backend == "python" and not any((v / "model.py").is_file() for v in versions):
        yield Problem(
            path, line_of(path, "backend"),
            f"model {name!r} has no model.py; take it from the skeleton, or generate again",
        )  # fmt: skip
    ensemble = config.platform == "ensemble"
    if (name == "ensemble") != ensemble:
        yield Problem(
            path, line_of(path, "platform"),
            f"platform is {config.platform!r}; set it to "
            + ('"ensemble"' if name == "ensemble" else '"", and backend to "python"'),
        )  # fmt: skip
    elif name in ("preprocessing", "postprocessing") and config.backend != "python":
        yield Problem(
            path, line_of(path, "backend"),
            f'backend is {config.backend!r}; set backend: "python"',
        )  # fmt: skip


def _check_batches(path: Path, configs: Mapping[str, Any]) -> Iterator[Problem]:
    """No model takes smaller batches than the ensemble."""
    size = configs["ensemble"].max_batch_size
    for name, config in configs.items():
        if (config.max_batch_size < size) or (size == 0 and config.max_batch_size > 0):
            yield Problem(
                path, line_of(path, "max_batch_size"),
                f"max_batch_size is {size} and that of {name!r} {config.max_batch_size}; "
                f"set it to {config.max_batch_size} here, or to {size} there",
            )  # fmt: skip


def _check_text(repository: Path, configs: Mapping[str, Any], engine: str) -> Iterator[Problem]:
    """Settings have known names and good values; tokenizer and template work; both agree."""
    parsed: dict[str, Any] = {}
    for name, cls in (
        ("preprocessing", PreprocessingSettings),
        ("postprocessing", PostprocessingSettings),
    ):
        if name not in configs:
            continue
        path = repository / name / "config.pbtxt"
        raw = {
            key: value.string_value.replace(MODEL_DIRECTORY, str(path.parent))
            for key, value in configs[name].parameters.items()
        }
        raw = {k: v for k, v in raw.items() if k not in ("FORCE_CPU_ONLY_INPUT_TENSORS",
                                                         "EXECUTION_ENV_PATH")}  # fmt: skip
        try:
            settings: Any = parse(cls, raw, f"model {name!r}")
            StreamKeyTransport.choose(settings.stream_key, response_parameters=True)
            tokenizer = create(settings)
            _try_out(tokenizer, getattr(settings, "template", "none"))
            parsed[name] = settings
        except TrtTokenizersError as error:
            yield Problem(path, parameter_line(path, str(error), raw), _with_mend(str(error)))
    if len(parsed) == 2:
        yield from _check_agreement(repository, configs, engine, **parsed)


def _with_mend(message: str) -> str:
    return message if "; " in message else f"{message}; correct it"


def _try_out(tokenizer: Tokenizer, template: str) -> None:
    """One sentence there and back, and one message through the template."""
    text = "Hello, world 1"
    ids = tokenizer.encode(text, add_special_tokens=False)
    folder = tokenizer.settings.tokenizer_dir
    if not tokenizer.decode(ids).strip():
        raise TokenizerError(
            f"the tokenizer in {folder} makes {ids} of {text!r} and nothing of them; set "
            "tokenizer_dir and tokenizer_type to what belongs together"
        )
    loaded = load_template(template, tokenizer.chat_template)
    if loaded is None:
        return
    messages = parse_messages('[{"role": "user", "content": "Hello"}]')
    try:
        prompt = loaded.render(messages, tokenizer.special_tokens)
    except TrtTokenizersError as error:
        raise TemplateError(
            f"the template {template!r} refuses one user's message: {error}"
        ) from None
    if "Hello" not in prompt:
        raise TemplateError(
            f"the template {template!r} leaves the message out of the prompt {prompt[:60]!r}; "
            "set template to another one"
        )


def _check_agreement(
    repository: Path,
    configs: Mapping[str, Any],
    engine_name: str,
    preprocessing: Any,
    postprocessing: Any,
) -> Iterator[Problem]:
    path = repository / "postprocessing" / "config.pbtxt"
    for name in ("tokenizer_dir", "tokenizer_type", "stream_key"):
        one, other = getattr(preprocessing, name), getattr(postprocessing, name)
        if name == "tokenizer_dir":
            one, other = Path(one).resolve(), Path(other).resolve()
        if one != other:
            yield Problem(
                path, line_of(path, f'key: "{name}"'),
                f"{name} is {str(other)!r} and that of preprocessing {str(one)!r}; make them equal",
            )  # fmt: skip
    stop = postprocessing.stop_model
    if stop and stop not in configs:
        yield Problem(
            path, line_of(path, 'key: "stop_model"'),
            f"stop_model is {stop!r}, which is no model here{nearest(stop, configs)}; correct it, "
            "or leave it empty",
        )  # fmt: skip
    engine = configs.get(engine_name)
    if engine is None or postprocessing.stream_key != "tensor":
        return
    for model, tensors in ((engine_name, engine.output), ("postprocessing",
                           configs["postprocessing"].input)):  # fmt: skip
        if not any(t.name.lower() == "stream_key" for t in tensors):
            yield Problem(
                path, line_of(path, 'key: "stream_key"'),
                f"stream_key is 'tensor', and {model!r} has no such tensor; set it to auto in "
                "preprocessing and postprocessing",
            )  # fmt: skip


def _check_order(path: Path, config: Any) -> Iterator[Problem]:
    """Nothing may let one chunk of a stream overtake another."""
    groups = config.instance_group
    if not groups:
        yield Problem(
            path,
            1,
            "without an instance_group Triton starts one instance per GPU, which mix the chunks "
            "of a stream up; add instance_group [ { count: 1 kind: KIND_CPU } ]",
        )
    if sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups) > 1:
        yield Problem(
            path,
            line_of(path, "count"),
            "several instances decode the chunks of one stream side by side and mix them up; "
            "set count: 1",
        )


def _check_batching(path: Path, config: Any) -> Iterator[Problem]:
    if config.HasField("dynamic_batching"):
        yield Problem(
            path,
            line_of(path, "dynamic_batching"),
            "Triton's dynamic batcher damages the server's memory once more than a thousand "
            "requests have waited, of any model, and reorders the chunks of a stream; remove it "
            "(preprocessing may have more instances)",
        )


def _check_engine(path: Path, config: Any, configs: Mapping[str, Any]) -> Iterator[Problem]:
    """The engine exists and takes its settings; nothing is loaded."""
    raw = {k: v.string_value for k, v in config.parameters.items() if v.string_value}
    streams = any(tensor.name == "streaming" for tensor in config.input)
    if streams and "ensemble" in configs and not config.model_transaction_policy.decoupled:
        yield Problem(
            path, line_of(path, "decoupled"),
            "the engine is not decoupled and refuses to stream; set model_transaction_policy "
            "{ decoupled: true }",
        )  # fmt: skip
    if config.backend == CPP_BACKEND:
        for key in config.parameters:
            if key not in ENGINE_PARAMETERS:
                yield Problem(
                    path, line_of(path, f'"{key}"'),
                    f"unknown parameter {key!r}{nearest(key, ENGINE_PARAMETERS)}; the backend "
                    "would pass over it, correct or remove it",
                )  # fmt: skip
            elif key in _BY_PARAMETER and (wrong := _BY_PARAMETER[key].problem(raw.get(key, ""))):
                yield Problem(path, line_of(path, f'"{key}"'), wrong)
        return
    name = raw.get("engine", "")
    if config.backend != "python" or ":" in name or "gpt_model_type" in raw:
        return  # somebody else's engine, which may be importable in the server only
    try:
        if not name:
            raise EngineError("parameter 'engine' has no value; it must name an engine")
        engine: Any = find_plugin(ENGINES, name, "engine", EngineError)
        engines_own = dict(raw)
        ServingSettings.take(engines_own, f"model {config.name!r}")
        engine.check(engines_own)
    except TrtTokenizersError as error:
        yield Problem(path, parameter_line(path, str(error), {"engine": name, **raw}), str(error))


def _check_engine_folder(repository: Path, path: Path) -> Iterator[Problem]:
    """What `engine_problems` says, each with the line that names the folder."""
    for text in engine_problems(repository, 1, multi_model=True):
        where, _, what = text.partition(": ")
        if Path(where) == path:
            line = line_of(path, f'"{what.split()[0]}"') if "is" in what else 1
            yield Problem(path, line, what)
        elif not str(where).startswith(str(repository)):
            yield Problem(path, line_of(path, '"gpt_model_path"'), f"{where}: {what}")
