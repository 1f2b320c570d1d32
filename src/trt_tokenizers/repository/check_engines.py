"""What a repository's engines need, against the world size and the GPUs: read before the start.

Files are read and nvidia-smi is asked; no engine is loaded and neither torch nor TensorRT-LLM is
imported. What is found here would otherwise show minutes later as a rank that waits for ever.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import splittable
from trt_tokenizers.memory.engine_folder import BuiltEngine, read_config, read_engine
from trt_tokenizers.memory.gpus import host_gpus, visible_gpus
from trt_tokenizers.repository.pbtxt import parse_config

#: Parameters of TensorRT-LLM's models that name an engine's folder.
_ENGINE_PATHS = ("gpt_model_path", "encoder_model_path")


def engine_problems(
    repository: Path, world_size: int, *, multi_model: bool = False
) -> Iterator[str]:
    """What in the engines of *repository* does not fit: one line each, with the mend.

    Args:
        repository: the model repository; configurations that hold ``${…}`` are left to
            `trt_tokenizers.launcher.preflight.problems`.
        world_size: MPI ranks over which each engine runs.
        multi_model: the server itself starts the ranks of each engine, which may then differ.
    """
    models, problems = _read_models(repository)
    yield from problems
    for model in models:
        if model.is_tensorrt_llm:
            yield from _tensorrt_llm_problems(model, None if multi_model else world_size)
        elif model.is_transformers:
            yield from _transformers_problems(model, world_size)


def gpu_problems(
    repository: Path,
    world_size: int,
    ranks_on_this_host: int,
    environ: Mapping[str, str],
    *,
    multi_model: bool = False,
) -> Iterator[str]:
    """What this host's GPUs lack for the engines of *repository*: one line each, with the mend.

    Of memory only the weights are known before the start: the size of a rank's engine file, or of
    the checkpoint divided by the ranks (if it is loaded in its own dtype). The KV cache,
    activations and CUDA's own 0.5 GB or so come on top, so silence here does not mean that it fits.

    Args:
        world_size: MPI ranks over all hosts.
        ranks_on_this_host: how many of them run here, one GPU each.
        environ: of the ranks: CUDA_VISIBLE_DEVICES, and PATH for nvidia-smi.
        multi_model: as in `engine_problems`.
    """
    models, _ = _read_models(repository)
    needs = [need for model in models for need in _gpu_needs(model, world_size)]
    if needs:
        yield from dict.fromkeys(_lacking(needs, ranks_on_this_host, environ, multi_model))


def _lacking(
    needs: list[_GpuNeed], ranks_on_this_host: int, environ: Mapping[str, str], multi_model: bool
) -> Iterator[str]:
    there = host_gpus(environ)
    seen = visible_gpus(there, environ)
    hidden = ""
    if len(seen) < len(there):
        chosen = environ["CUDA_VISIBLE_DEVICES"]
        hidden = f", CUDA_VISIBLE_DEVICES={chosen} shows {len(seen)} of {len(there)}"
    for need in needs:
        ranks = need.ranks if multi_model and need.ranks else ranks_on_this_host
        if not seen and not need.always:
            continue
        if len(seen) < ranks:
            yield (
                f"{need.who} needs {ranks} GPUs on this host, one a rank, and {len(seen)} can be "
                f"seen{hidden}; {need.mend}"
            )
        least = min((gpu.memory for gpu in seen[:ranks] if gpu.memory is not None), default=None)
        if least is not None and need.weights > least:
            yield (
                f"{need.weights_from}: a rank's weights are {_gigabytes(need.weights)} and the "
                f"smallest GPU has {_gigabytes(least)}; split the model over more ranks, quantize "
                "it, or take larger GPUs"
            )


@dataclass(frozen=True)
class _Model:
    """One model of the repository, as its config.pbtxt says.

    Attributes:
        parameters: with a value only.
        max_batch_size: Triton's; 0: no batches.
    """

    file: Path
    backend: str
    max_batch_size: int
    parameters: Mapping[str, str]

    @property
    def is_tensorrt_llm(self) -> bool:
        """An engine of TensorRT-LLM: by its C++ backend, or by NVIDIA's Python model, whose
        preprocessing also has a gpt_model_path but no gpt_model_type."""
        return self.backend == "tensorrtllm" or "gpt_model_type" in self.parameters

    @property
    def is_transformers(self) -> bool:
        return self.backend == "python" and self.parameters.get("engine") == "transformers"


@dataclass(frozen=True)
class _GpuNeed:
    """What one engine asks of a GPU.

    Attributes:
        always: it cannot run without one.
        ranks: that the engine was built for; 0: any.
        weights: bytes of the largest rank; 0: not known.
        weights_from: the file or folder which says so.
    """

    who: str
    always: bool
    mend: str
    ranks: int = 0
    weights: int = 0
    weights_from: Path | None = None


def _read_models(repository: Path) -> tuple[list[_Model], list[str]]:
    """The models whose configurations parse, and a line for each that does not."""
    models, problems = [], []
    for file in sorted(repository.glob("*/config.pbtxt")):
        text = file.read_text(encoding="utf-8", errors="replace")
        try:
            config = parse_config(text)
        except ValueError as error:
            if "${" not in text:
                problems.append(f"{file}: {error}; correct it")
            continue
        parameters = {
            name: value.string_value
            for name, value in config.parameters.items()
            if value.string_value and "${" not in value.string_value
        }
        models.append(_Model(file, config.backend, config.max_batch_size, parameters))
    return models, problems


def _tensorrt_llm_problems(model: _Model, world_size: int | None) -> Iterator[str]:
    paths = [(name, model.parameters[name]) for name in _ENGINE_PATHS if name in model.parameters]
    if not paths:
        yield (
            f"{model.file}: gpt_model_path has no value; give the absolute path of the engine's "
            "folder"
        )
    for name, path in paths:
        # As upstream does: from the working folder of the server, which is this process's.
        folder = Path(path)
        if not folder.is_dir():
            start = "" if folder.is_absolute() else f" below the working folder {Path.cwd()}"
            yield (
                f"{model.file}: {name} is {path!r} and there is no such folder{start}; give the "
                "absolute path of the engine's folder, as the server sees it"
            )
            continue
        try:
            engine = read_engine(folder)
        except RepositoryError as error:
            yield str(error)
            continue
        yield from _rank_problems(engine, world_size)
        yield from _version_problems(engine)
        most = engine.max_batch_size
        if most is not None and model.max_batch_size > most:
            yield (
                f"{model.file}: max_batch_size is {model.max_batch_size} and the engine in "
                f"{folder} was built for at most {most}; set it to {most} here, or build the "
                f"engine with --max_batch_size {model.max_batch_size}"
            )


def _rank_problems(engine: BuiltEngine, world_size: int | None) -> Iterator[str]:
    ranks = len(engine.files)
    if world_size not in (None, ranks):
        split = " x ".join(f"{name} parallel {size}" for name, size in engine.parallel.items())
        yield (
            f"{engine.folder / 'config.json'}: the engine was built for {ranks} ranks ({split}) "
            f"and --world-size is {world_size}; use --world-size {ranks}, or build the engine for "
            f"{world_size}"
        )
    missing = [file for file in engine.files if not (engine.folder / file).is_file()]
    if missing:
        there = ", ".join(sorted(p.name for p in engine.folder.glob("*.engine"))) or "none"
        yield (
            f"{engine.folder}: {', '.join(missing)} of the engine's {ranks} ranks "
            f"{'is' if len(missing) == 1 else 'are'} missing (engine files there: {there}); copy "
            "the whole folder that the build made, or build it again"
        )


def _version_problems(engine: BuiltEngine) -> Iterator[str]:
    try:
        installed = importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:
        return
    if engine.version and engine.version.partition("+")[0] != installed.partition("+")[0]:
        yield (
            f"{engine.folder / 'config.json'}: the engine was built by TensorRT-LLM "
            f"{engine.version} and {installed} is installed, which cannot load it; build it again "
            f"with {installed}, or run it in the container that has {engine.version}"
        )


def _transformers_problems(model: _Model, world_size: int) -> Iterator[str]:
    path = Path(model.parameters.get("model_dir", ""))
    try:
        config = read_config(path / "config.json", f"model_dir in {model.file} a model's folder")
    except RepositoryError as error:
        yield str(error)
        return
    if why := splittable(config, world_size):
        yield f"{path / 'config.json'}: {why}"


def _gpu_needs(model: _Model, world_size: int) -> Iterator[_GpuNeed]:
    if model.is_tensorrt_llm:
        for name in _ENGINE_PATHS:
            try:
                engine = read_engine(Path(model.parameters[name]))
            except (KeyError, RepositoryError):
                continue  # `engine_problems` says what is wrong with it
            files = [engine.folder / file for file in engine.files]
            sizes = {file: file.stat().st_size for file in files if file.is_file()}
            largest = max(sizes, key=sizes.__getitem__, default=None)
            yield _GpuNeed(
                who=f"{model.file}: a TensorRT-LLM engine",
                always=True,
                mend="give the container GPUs (docker run --gpus all), or use fewer ranks here "
                "with --hosts",
                ranks=len(files),
                weights=sizes[largest] if largest else 0,
                weights_from=largest,
            )
    elif model.is_transformers and model.parameters.get("device", "auto") != "cpu":
        folder = Path(model.parameters.get("model_dir", ""))
        same_dtype = model.parameters.get("dtype", "auto") == "auto"
        yield _GpuNeed(
            who=f"{model.file}: the engine transformers",
            always=model.parameters.get("device") == "cuda",
            mend="show it more, use a smaller --world-size, or set its device to cpu",
            weights=_checkpoint_size(folder) // world_size if same_dtype else 0,
            weights_from=folder,
        )


def _checkpoint_size(folder: Path) -> int:
    """Bytes of a Hugging Face model's weights; 0 where they are in no safetensors."""
    with contextlib.suppress(RepositoryError, LookupError, TypeError, ValueError):
        index = read_config(folder / "model.safetensors.index.json", "")
        return int(index["metadata"]["total_size"])
    single = folder / "model.safetensors"
    return single.stat().st_size if single.is_file() else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
