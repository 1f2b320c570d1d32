"""Check a repository's engines against the number of ranks and the GPUs before the start.

The check reads files and runs nvidia-smi. It loads no engine and imports neither torch nor
TensorRT-LLM. Without it these errors appear minutes later, as a rank that waits without end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.hf_config import read_mapping, splittable
from trt_tokenizers.memory.engine_folder import BuiltEngine, read_config, read_engine
from trt_tokenizers.memory.gpus import host_gpus, visible_gpus
from trt_tokenizers.repository.builds.facts import host_version, mismatch
from trt_tokenizers.repository.ensemble import parameters
from trt_tokenizers.repository.problems import ConfigError, read_model_config

#: Parameters of TensorRT-LLM's models that name an engine's folder.
_ENGINE_PATHS = ("gpt_model_path", "encoder_model_path")


def engine_problems(
    repository: Path, world_size: int, *, multi_model: bool = False
) -> Iterator[str]:
    """What is wrong with the engines of *repository*: one line each, with the fix.

    Args:
        world_size: MPI ranks of each engine.
        multi_model: the server starts the ranks of each engine, so their numbers may differ.
    """
    models, problems = _read_models(repository)
    yield from problems
    for model in models:
        if model.is_tensorrt_llm:
            yield from _tensorrt_llm_problems(model, None if multi_model else world_size)
        elif model.is_transformers:
            yield from _transformers_problems(model, world_size)


def python_processes(repository: Path) -> int:
    """The number of processes of the Python models: one per instance."""
    models, _ = _read_models(repository)
    return sum(model.instances for model in models if model.backend == "python")


def gpu_problems(
    repository: Path,
    world_size: int,
    ranks_on_this_host: int,
    environ: Mapping[str, str],
    *,
    multi_model: bool = False,
) -> list[str]:
    """What this host's GPUs lack for the engines of *repository*: one line each, with the fix.

    Before the start only the memory of the weights is known: the size of a rank's engine file, or
    the checkpoint divided by the ranks (if it is loaded in its own dtype). KV cache, activations
    and CUDA (about 0.5 GB) need more, so an empty result does not mean that everything fits.

    Args:
        world_size: MPI ranks on all hosts.
        ranks_on_this_host: ranks on this host, one GPU each.
        environ: the ranks' environment: CUDA_VISIBLE_DEVICES, and PATH for nvidia-smi.
        multi_model: as in `engine_problems`.
    """
    models, _ = _read_models(repository)
    needs = [need for model in models for need in _gpu_needs(model, world_size)]
    gpus = host_gpus(environ) if needs else []
    visible = visible_gpus(gpus, environ)
    hidden = ""
    if len(visible) < len(gpus):
        value = environ["CUDA_VISIBLE_DEVICES"]
        hidden = f", CUDA_VISIBLE_DEVICES={value} shows {len(visible)} of {len(gpus)}"
    found = []
    for need in needs:
        ranks = need.ranks if multi_model and need.ranks else ranks_on_this_host
        if not visible and not need.required:
            continue
        if len(visible) < ranks:
            found.append(
                f"{need.engine} needs {ranks} GPUs on this host, one per rank, and {len(visible)} "
                f"are visible{hidden}; {need.fix}"
            )
        sizes = [gpu.memory for gpu in visible[:ranks] if gpu.memory is not None]
        if sizes and need.weights > min(sizes):
            found.append(
                f"{need.weights_from}: a rank's weights are {_gigabytes(need.weights)} and the "
                f"smallest GPU has {_gigabytes(min(sizes))}; split the model over more ranks, "
                "quantize it, or use larger GPUs"
            )
    return list(dict.fromkeys(found))  # two engines of one model may lack the same GPUs


class _Model(NamedTuple):
    file: Path
    backend: str
    max_batch_size: int  # 0: no batches
    instances: int
    parameters: Mapping[str, str]  # those that have a value

    @property
    def is_tensorrt_llm(self) -> bool:
        """Whether it is the C++ backend, or NVIDIA's Python model.

        NVIDIA's preprocessing also has a gpt_model_path, but no gpt_model_type.
        """
        return self.backend == "tensorrtllm" or "gpt_model_type" in self.parameters

    @property
    def is_transformers(self) -> bool:
        return self.backend == "python" and self.parameters.get("engine") == "transformers"


class _GpuNeed(NamedTuple):
    engine: str  # its file and kind, for messages
    required: bool  # it cannot run without a GPU
    fix: str  # what to do if there are too few
    ranks: int  # that the engine was built for; 0: any number
    weights: int  # bytes of the largest rank; 0: unknown
    weights_from: Path | None  # the file or folder with these weights


def _read_models(repository: Path) -> tuple[list[_Model], list[str]]:
    """The models whose configurations parse, and one line for each other one."""
    models, problems = [], []
    for file in sorted(repository.glob("*/config.pbtxt")):
        try:
            config = read_model_config(file)
        except ConfigError as error:
            problems.append(str(error))
            continue
        values = {name: value for name, value in parameters(config).items() if value}
        groups = config.instance_group
        instances = sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups) or 1
        models.append(_Model(file, config.backend, config.max_batch_size, instances, values))
    return models, problems


def _tensorrt_llm_problems(model: _Model, world_size: int | None) -> Iterator[str]:
    paths = [(name, model.parameters[name]) for name in _ENGINE_PATHS if name in model.parameters]
    if not paths:
        yield (
            f"{model.file}: gpt_model_path has no value; set it to the absolute path of the "
            "engine's folder"
        )
    for name, path in paths:
        # A relative path starts at the server's working folder, which is this process's.
        folder = Path(path)
        if not folder.is_dir():
            start = "" if folder.is_absolute() else f" in the working folder {Path.cwd()}"
            yield (
                f"{model.file}: {name} is {path!r} and there is no such folder{start}; set it to "
                "the absolute path of the engine's folder in the server"
            )
            continue
        try:
            engine = read_engine(folder)
        except RepositoryError as error:
            yield str(error)
            continue
        yield from _rank_problems(engine, world_size)
        yield from _version_problems(engine)
        limit = engine.max_batch_size
        if limit is not None and model.max_batch_size > limit:
            yield (
                f"{model.file}: max_batch_size is {model.max_batch_size} and the engine in "
                f"{folder} was built for at most {limit}; set it to {limit} here, or build the "
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
        present = ", ".join(sorted(p.name for p in engine.folder.glob("*.engine"))) or "none"
        yield (
            f"{engine.folder}: {', '.join(missing)} of the engine's {ranks} ranks "
            f"{'is' if len(missing) == 1 else 'are'} missing (engine files there: {present}); "
            "copy the whole folder that the build made, or build it again"
        )


def _version_problems(engine: BuiltEngine) -> Iterator[str]:
    # An engine of 0.8 or newer without a version may be of any.
    known = engine.version or "tensor_parallel" in engine.built
    if known and (host := host_version()) and (why := mismatch(engine.version, host)):
        yield f"{engine.folder / 'config.json'}: {why}"


def _transformers_problems(model: _Model, world_size: int) -> Iterator[str]:
    path = Path(model.parameters.get("model_dir", ""))
    try:
        config = read_config(path, f"model_dir in {model.file} a model's folder")
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
                continue  # `engine_problems` reports it
            sizes = engine.rank_sizes()
            largest = max(sizes, key=sizes.__getitem__, default=None)
            yield _GpuNeed(
                engine=f"{model.file}: a TensorRT-LLM engine",
                required=True,
                fix="give the container GPUs (docker run --gpus all), or use fewer ranks here "
                "with --hosts",
                ranks=len(engine.files),
                weights=sizes[largest] if largest else 0,
                weights_from=largest,
            )
    elif model.is_transformers and model.parameters.get("device", "auto") != "cpu":
        folder = Path(model.parameters.get("model_dir", ""))
        same_dtype = model.parameters.get("dtype", "auto") == "auto"
        yield _GpuNeed(
            engine=f"{model.file}: the engine transformers",
            required=model.parameters.get("device") == "cuda",
            fix="make more visible, use a smaller --world-size, or set its device to cpu",
            ranks=0,
            weights=_checkpoint_size(folder) // world_size if same_dtype else 0,
            weights_from=folder,
        )


def _checkpoint_size(folder: Path) -> int:
    """Bytes of a Hugging Face model's weights; 0 if they are not in safetensors files."""
    with contextlib.suppress(RepositoryError, LookupError, TypeError, ValueError):
        index = read_mapping(folder / "model.safetensors.index.json", RepositoryError, "")
        return int(index["metadata"]["total_size"])
    single = folder / "model.safetensors"
    return single.stat().st_size if single.is_file() else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
