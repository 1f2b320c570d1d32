"""The commands of a build, in their order, each with its reason."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.builds.plan import Build
from trt_tokenizers.repository.schemas import unknown_version

_SOURCES = "https://github.com/NVIDIA/TensorRT-LLM.git"
_TEMPLATES = "https://github.com/triton-inference-server/tensorrtllm_backend.git"
_INDEX = "https://pypi.nvidia.com"
_RANKS_PER_HOST = 8


@dataclass(frozen=True)
class Step:
    """One command and why it is needed."""

    why: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command as a line for a shell."""
        return shlex.join(self.arguments)


def build_steps(build: Build) -> list[Step]:
    """The commands from the container to the engine."""
    return [*_preparation(build), *(_program(build, name) for name in build.programs)]


def serve_steps(build: Build) -> list[Step]:
    """The commands of this package that make, check and serve a repository of the engine."""
    engine, repository = _paths(build)["output"], str(_parent(build) / "model_repo")
    ranks = build.options.world_size
    return [
        *_repository(build, engine, repository),
        Step("Check it before the start", ("trt-tokenizers", "check", repository)),
        Step(
            f"Serve it: {ranks} rank{'s' if ranks > 1 else ''}",
            ("launch_server", "--model-repo", repository, "--world-size", str(ranks)),
        ),
    ]


def python_alternative(build: Build) -> str:
    """A Python program that does the same as the build's programs; empty if this version has none.

    It needs no conversion, so it cannot quantize with options of convert_checkpoint.py.
    """
    if not facts.has("llm_save", build.release.version) or build.quantization is not None:
        return ""
    options, paths = build.options, _paths(build)
    names = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")
    limits = ", ".join(
        f"{name}={getattr(options, name)}" for name in names if getattr(options, name)
    )
    return f"""from tensorrt_llm import BuildConfig
from tensorrt_llm._tensorrt_engine import LLM

if __name__ == "__main__":
    llm = LLM(
        model={paths["model"]!r},
        dtype={options.dtype!r},
        tensor_parallel_size={options.tensor},
        pipeline_parallel_size={options.pipeline},
        build_config=BuildConfig({limits}),
    )
    llm.save({paths["output"]!r})
"""


def _parent(build: Build) -> Path:
    return build.options.output.absolute().parent


def _paths(build: Build) -> dict[str, str]:
    output, parent = build.options.output.absolute(), _parent(build)
    return {
        "sources": str(parent / "TensorRT-LLM"),
        "templates": str(parent / "tensorrtllm_backend"),
        "model": str(build.options.model.absolute()),
        "output": str(output),
        "checkpoint": f"{output}-checkpoint",
    }


def _preparation(build: Build) -> Iterator[Step]:
    release, paths, work = build.release, _paths(build), str(_parent(build))
    with_trt = f" and TensorRT {release.tensorrt}" if release.tensorrt else ""
    volumes = [word for folder in _folders(build) for word in ("-v", f"{folder}:{folder}")]
    yield _clone("The scripts of this version", release.git, _SOURCES, paths["sources"])
    if unknown_version(release.version):
        why = "NVIDIA's templates of this version, because `generate` does not know its tensors"
        yield _clone(why, f"v{release.version}", _TEMPLATES, paths["templates"])
    yield Step(
        f"The container with TensorRT-LLM {release.version}{with_trt}; the engine runs in no other "
        "version",
        (
            *("docker", "run", "--rm", "-it", "--gpus", "all", "--shm-size=2g"),
            *("--ulimit", "memlock=-1", *volumes, "-w", work, release.image, "bash"),
        ),
    )
    if not facts.has("build_in_container", release.version):
        yield Step(
            "The Python package, which this container lacks: it has only the C++ backend",
            ("pip", "install", f"tensorrt_llm=={release.version}", "--extra-index-url", _INDEX),
        )
        folder = f"{_examples(build)}/{build.recipe.folder}"
        yield _requirements("What the scripts of the model need", folder)
    if "quantize.py" in build.programs:
        folder = f"{paths['sources']}/examples/quantization"
        yield _requirements("What the calibration needs", folder)


def _folders(build: Build) -> list[Path]:
    """The folders that the container needs."""
    model = Path(_paths(build)["model"])
    # The files of a model in Hugging Face's cache are links to another folder.
    links = [file.parent / file.readlink() for file in model.iterdir() if file.is_symlink()]
    targets = sorted({Path(os.path.normpath(link)).parent for link in links})
    folders: list[Path] = []
    for folder in [_parent(build), model, *targets]:
        if not any(folder.is_relative_to(each) for each in folders):
            folders.append(folder)
    return folders


def _clone(why: str, tag: str, url: str, folder: str) -> Step:
    return Step(why, ("git", "clone", "--depth", "1", "-b", tag, url, folder))


def _requirements(why: str, folder: str) -> Step:
    return Step(why, ("pip", "install", "-r", f"{folder}/requirements.txt"))


def _examples(build: Build) -> str:
    root = f"{_paths(build)['sources']}/examples"
    moved = facts.has("models_folder", build.release.version)
    return f"{root}/models/{build.recipe.group}" if moved else root


def _program(build: Build, name: str) -> Step:
    options, quantization = build.options, build.quantization
    numbers = {
        "world_size": options.world_size,
        "tp": options.tensor,
        "pp": options.pipeline,
        "workers": min(options.world_size, _RANKS_PER_HOST),
        **build.limits,
    }
    values = {
        **_paths(build),
        **{key: str(value or "") for key, value in numbers.items()},
        "dtype": options.dtype,
        "examples": _examples(build),
        "folder": build.recipe.folder,
        "quantization": options.quantization,
        "precision": f"int{quantization.bits}" if quantization else "",
    }
    program = facts.PROGRAMS[name]
    arguments = [word.format(**values) for word in program["command"]]
    for row in build.rows(name):
        value = row.value.format(**values) or row.ours
        if value or not row.value:
            arguments += [row.name, value] if value else [row.name]
    why = program["why"].format(**values)
    if name == build.programs[-1] and (defaults := _defaults(build, arguments)):
        why += f" (this version's defaults: {defaults})"
    return Step(why, tuple(arguments))


def _defaults(build: Build, arguments: list[str]) -> str:
    """The limits that the user leaves to the version."""
    return ", ".join(
        f"{row.name.removeprefix('--')} {row.default}"
        for row in build.rows(build.programs[-1])
        if re.match("--max_", row.name) and row.name not in arguments and row.default
    )


def _repository(build: Build, engine: str, repository: str) -> Iterator[Step]:
    model, version = _paths(build)["model"], build.release.version
    if not unknown_version(version):
        yield Step(
            "Make the repository, where this package is installed (Dockerfile.triton)",
            (
                *("trt-tokenizers", "generate", "--engine", "tensorrtllm", "--engine-dir", engine),
                *("--tokenizer-dir", model, "--tensorrt-llm-version", version),
                *("--output", repository),
            ),
        )
        return
    templates = f"{_paths(build)['templates']}/all_models/inflight_batcher_llm"
    batch = f"triton_max_batch_size:{build.limit('max_batch_size') or 8}"
    text = f"{batch},tokenizer_dir:{model},tokenizer_type:auto"
    fills = {
        "ensemble": batch,
        "preprocessing": f"{text},preprocessing_instance_count:1",
        "tensorrt_llm": f"{batch},engine_dir:{engine},triton_backend:tensorrtllm,"
        "batching_strategy:inflight_fused_batching,decoupled_mode:true,"
        "max_queue_delay_microseconds:0,max_queue_size:0",
        "postprocessing": f"{text},postprocessing_instance_count:1",
    }
    yield Step("The repository to fill", ("cp", "-r", templates, repository))
    yield Step(
        "The model for scripting is not needed", ("rm", "-rf", f"{repository}/tensorrt_llm_bls")
    )
    for name, values in fills.items():
        file = f"{repository}/{name}/config.pbtxt"
        yield Step(f"Fill {name}", ("fill_template", "-i", file, values))
    yield Step("Put the exact text models into it", ("trt-tokenizers", "adopt", repository))
