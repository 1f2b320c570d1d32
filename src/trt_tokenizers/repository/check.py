"""Check a model repository without a server: what would prevent the ensemble from serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trt_tokenizers.engines.base import ENGINES
from trt_tokenizers.engines.serving_settings import ServingSettings
from trt_tokenizers.errors import EngineError, TemplateError, TokenizerError, TrtTokenizersError
from trt_tokenizers.plugins import find_plugin
from trt_tokenizers.processing.postprocess import PostprocessingSettings
from trt_tokenizers.processing.preprocess import PreprocessingSettings
from trt_tokenizers.repository.check_engines import engine_problems
from trt_tokenizers.repository.check_ensemble import EnsembleChecker
from trt_tokenizers.repository.ensemble import parameters
from trt_tokenizers.repository.nvidia_settings import ENGINE_PARAMETERS
from trt_tokenizers.repository.problems import (
    ConfigError,
    Problem,
    line_of,
    parameter_line,
    read_model_config,
)
from trt_tokenizers.repository.tensorrtllm_backend import CPP_BACKEND
from trt_tokenizers.settings import MODEL_DIRECTORY, nearest, parse
from trt_tokenizers.streams.stream_key import StreamKeyTransport
from trt_tokenizers.templates.messages import parse_messages
from trt_tokenizers.templates.render import load as load_template
from trt_tokenizers.tokenizers.base import Tokenizer
from trt_tokenizers.tokenizers.registry import create

_TEXT: dict[str, Any] = {
    "preprocessing": PreprocessingSettings,
    "postprocessing": PostprocessingSettings,
}
#: Parameters that Triton's Python backend reads itself.
_PYTHON_BACKEND = ("FORCE_CPU_ONLY_INPUT_TENSORS", "EXECUTION_ENV_PATH")


def check(repository: Path, *, engines: bool = True) -> list[Problem]:
    """Find everything that would prevent the ensemble from serving.

    Args:
        engines: also check the engines' folders, which must be on this machine.
    """
    if not repository.is_dir():
        return [Problem(repository, 1, "does not exist; make it with: trt-tokenizers generate")]
    problems: list[Problem] = []
    configs: dict[str, Any] = {}
    engine = _engine_name(repository)
    models = ("ensemble", "preprocessing", engine, "postprocessing")
    paths = {name: repository / name / "config.pbtxt" for name in models}
    for name, path in paths.items():
        if not path.exists():
            what = f"is missing; the ensemble needs the model {name!r}"
            problems.append(Problem(path, 1, what))
            continue
        try:
            configs[name] = config = read_model_config(path)
        except ConfigError as error:
            problems.append(error.problem)
            continue
        problems += _check_model(path, name, config)
    if "ensemble" in configs:
        problems += EnsembleChecker(paths["ensemble"], configs, models).problems()
        problems += _check_batch_sizes(paths["ensemble"], configs)
    problems += _check_text_models(paths, configs, engine)
    if engine in configs:
        problems += _check_engine(paths[engine], configs[engine])
        if engines and configs[engine].backend != "python":
            problems += _check_engine_folder(repository, paths[engine])
    return problems


def _engine_name(repository: Path) -> str:
    """The folder of the ensemble's engine: the only step that is not a text model."""
    try:
        ensemble = read_model_config(repository / "ensemble" / "config.pbtxt")
    except ConfigError:  # `check` reports it
        return "tensorrt_llm"
    steps = ensemble.ensemble_scheduling.step
    found = {step.model_name for step in steps if (repository / step.model_name).is_dir()}
    others = sorted(found.difference(_TEXT))
    return str(others[0]) if len(others) == 1 else "tensorrt_llm"


def _check_model(path: Path, name: str, config: Any) -> Iterator[Problem]:
    """Check the model's name, files, backend and instances."""
    if config.name not in ("", name):
        what = f"name is {config.name!r} and the folder is {name!r}; make them equal"
        yield Problem.at(path, "name:", what)
    versions = [p for p in path.parent.iterdir() if p.is_dir() and p.name.isdecimal()]
    if not versions:
        what = f"model {name!r} has no version; make the folder {path.parent / '1'}"
        yield Problem(path, 1, what)
    elif config.backend == "python" and not any((v / "model.py").is_file() for v in versions):
        what = f"model {name!r} has no model.py; copy it from the skeleton, or generate again"
        yield Problem.at(path, "backend", what)
    ensemble = config.platform == "ensemble"
    if (name == "ensemble") != ensemble:
        wanted = '"ensemble"' if name == "ensemble" else '"", and backend to "python"'
        what = f"platform is {config.platform!r}; set it to {wanted}"
        yield Problem.at(path, "platform", what)
    elif name in _TEXT and config.backend != "python":
        yield Problem.at(path, "backend", f'backend is {config.backend!r}; set backend: "python"')
    if name in _TEXT and config.HasField("dynamic_batching"):
        yield Problem.at(
            path, "dynamic_batching",
            "Triton's dynamic batcher corrupts the server's memory after more than a thousand "
            "requests of any model have waited, and reorders the chunks of a stream; remove it "
            "(preprocessing may have more instances)",
        )  # fmt: skip
    if name == "postprocessing":  # the chunks of a stream must stay in order
        groups = config.instance_group
        if not groups:
            yield Problem(
                path, 1,
                "without an instance_group Triton starts one instance per GPU, and these mix the "
                "chunks of a stream; add instance_group [ { count: 1 kind: KIND_CPU } ]",
            )  # fmt: skip
        if sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups) > 1:
            yield Problem.at(
                path, "count",
                "several instances decode the chunks of one stream in parallel and mix them; set "
                "count: 1",
            )  # fmt: skip


def _check_batch_sizes(path: Path, configs: Mapping[str, Any]) -> Iterator[Problem]:
    """Every model must take batches as large as the ensemble's."""
    size = configs["ensemble"].max_batch_size
    for name, config in configs.items():
        if (config.max_batch_size < size) or (size == 0 and config.max_batch_size > 0):
            yield Problem.at(
                path, "max_batch_size",
                f"max_batch_size is {size} and that of {name!r} is {config.max_batch_size}; "
                f"set it to {config.max_batch_size} here, or to {size} there",
            )  # fmt: skip


def _check_text_models(
    paths: Mapping[str, Path], configs: Mapping[str, Any], engine: str
) -> Iterator[Problem]:
    """Check the settings, load the tokenizer and template, and compare the two models."""
    parsed: dict[str, Any] = {}
    for name, cls in _TEXT.items():
        if name not in configs:
            continue
        path = paths[name]
        raw = {
            key: value.string_value.replace(MODEL_DIRECTORY, str(path.parent))
            for key, value in configs[name].parameters.items()
            if key not in _PYTHON_BACKEND
        }
        try:
            settings = parse(cls, raw, f"model {name!r}")
            StreamKeyTransport.choose(settings.stream_key, response_parameters=True)
            _try_out(create(settings), getattr(settings, "template", "none"))
            parsed[name] = settings
        except TrtTokenizersError as error:
            message = str(error)
            what = message if "; " in message else f"{message}; correct it"
            yield Problem(path, parameter_line(path, message, raw), what)
    if len(parsed) == len(_TEXT):
        yield from _check_agreement(paths["postprocessing"], configs, engine, **parsed)


def _try_out(tokenizer: Tokenizer, template: str) -> None:
    text = "Hello, world 1"
    ids = tokenizer.encode(text, add_special_tokens=False)
    folder = tokenizer.settings.tokenizer_dir
    if not tokenizer.decode(ids).strip():
        raise TokenizerError(
            f"the tokenizer in {folder} encodes {text!r} as {ids} and decodes that to an empty "
            "text; set tokenizer_dir and tokenizer_type to values that belong together"
        )
    loaded = load_template(template, tokenizer.chat_template)
    if loaded is None:
        return
    messages = parse_messages('[{"role": "user", "content": "Hello"}]')
    try:
        prompt = loaded.render(messages, tokenizer.special_tokens)
    except TrtTokenizersError as error:
        raise TemplateError(f"the template {template!r} refuses a user message: {error}") from None
    if "Hello" not in prompt:
        raise TemplateError(
            f"the template {template!r} omits the message from the prompt {prompt[:60]!r}; set "
            "template to another one"
        )


def _check_agreement(
    path: Path,
    configs: Mapping[str, Any],
    engine_name: str,
    preprocessing: Any,
    postprocessing: Any,
) -> Iterator[Problem]:
    for name in ("tokenizer_dir", "tokenizer_type", "stream_key"):
        first, second = getattr(preprocessing, name), getattr(postprocessing, name)
        if name == "tokenizer_dir":
            first, second = Path(first).resolve(), Path(second).resolve()
        if first != second:
            yield Problem.at(
                path, f'key: "{name}"',
                f"{name} is {str(second)!r} and that of preprocessing is {str(first)!r}; make them "
                "equal",
            )  # fmt: skip
    stop = postprocessing.stop_model
    if stop and stop not in configs:
        yield Problem.at(
            path, 'key: "stop_model"',
            f"stop_model is {stop!r}, which is not a model here{nearest(stop, configs)}; correct "
            "it, or leave it empty",
        )  # fmt: skip
    engine = configs.get(engine_name)
    if engine is None or postprocessing.stream_key != StreamKeyTransport.TENSOR.value:
        return
    for model, tensors in (
        (engine_name, engine.output),
        ("postprocessing", configs["postprocessing"].input),
    ):
        if not any(t.name.lower() == "stream_key" for t in tensors):
            yield Problem.at(
                path, 'key: "stream_key"',
                f"stream_key is {postprocessing.stream_key!r}, and {model!r} has no such tensor; "
                "set it to auto in preprocessing and postprocessing",
            )  # fmt: skip


def _check_engine(path: Path, config: Any) -> Iterator[Problem]:
    """Check that the engine exists and accepts its settings, without loading a model."""
    raw = {key: value for key, value in parameters(config).items() if value}
    if config.backend == CPP_BACKEND:
        for key in config.parameters:
            if key not in ENGINE_PARAMETERS:
                yield Problem.at(
                    path, f'"{key}"',
                    f"unknown parameter {key!r}{nearest(key, ENGINE_PARAMETERS)}, which the "
                    "backend would ignore; correct or remove it",
                )  # fmt: skip
            elif wrong := ENGINE_PARAMETERS[key].problem(raw.get(key, "")):
                yield Problem.at(path, f'"{key}"', wrong)
        return
    name = raw.get("engine", "")
    if config.backend != "python" or ":" in name or "gpt_model_type" in raw:
        return  # another package's engine may be importable in the server only
    try:
        if not name:
            raise EngineError("parameter 'engine' has no value; set it to an engine's name")
        engine: Any = find_plugin(ENGINES, name, "engine", EngineError)
        own = dict(raw)
        ServingSettings.take(own, f"model {config.name!r}")
        engine.check(own)
    except TrtTokenizersError as error:
        yield Problem(path, parameter_line(path, str(error), {"engine": name, **raw}), str(error))


def _check_engine_folder(repository: Path, path: Path) -> Iterator[Problem]:
    """The results of `engine_problems`, each on the line that names the engine's folder."""
    for text in engine_problems(repository, 1, multi_model=True):
        where, _, what = text.partition(": ")
        if Path(where) == path:
            line = line_of(path, f'"{what.split()[0]}"') if "is" in what else 1
            yield Problem(path, line, what)
        elif "config.pbtxt" not in where:  # the engine's folder, not another model
            yield Problem.at(path, '"gpt_model_path"', f"{where}: {what}")
