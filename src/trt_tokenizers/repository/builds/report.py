"""A build and the table of facts, as text and as values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trt_tokenizers.memory.report import as_dict as memory_dict
from trt_tokenizers.memory.report import text as memory_text
from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.builds.facts import Gpu, Option, Recipe
from trt_tokenizers.repository.builds.plan import Build
from trt_tokenizers.repository.builds.steps import (
    Step,
    build_steps,
    python_alternative,
    serve_steps,
)


def text(build: Build) -> str:
    """The build for a shell: each command on one line, all else in comments."""
    options, release = build.options, build.release
    quantized = f", {options.quantization}" if options.quantization else ""
    head = [
        f"{options.model.absolute().name} ({build.model_type}, {options.dtype}{quantized}) for "
        f"TensorRT-LLM {release.version}: tensor parallel {options.tensor} x pipeline parallel "
        f"{options.pipeline}",
        *(memory_text(build.memory).splitlines() if build.memory else _NO_MEMORY),
    ]
    if release.trap:
        head.append(f"Attention: {release.trap}")
    building, serving = build_steps(build), serve_steps(build)
    blocks = [
        f"# {at}. {step.why}\n{step.command}" for at, step in enumerate([*building, *serving], 1)
    ]
    if program := python_alternative(build):
        end = len(building)
        code = "".join(f"\n#   {line}".rstrip(" ") for line in program.splitlines())
        blocks.insert(end, f"# Steps {end - len(build.programs) + 1} to {end} in Python:{code}")
    return "\n\n".join(["\n".join(f"# {line}" for line in head), *blocks])


_NO_MEMORY = ["The memory is not planned; give --gpu-memory, the GiB of one GPU"]


def as_dict(build: Build) -> dict[str, Any]:
    """The build for JSON; sizes of the memory in bytes."""
    options, release = build.options, build.release
    return {
        "model": str(options.model.absolute()),
        "model_type": build.model_type,
        "tensorrt_llm": release.version,
        "tensorrt": release.tensorrt or None,
        "container": release.image,
        "trap": release.trap or None,
        "dtype": options.dtype,
        "quantization": options.quantization or None,
        "world_size": options.world_size,
        "tensor_parallel": options.tensor,
        "pipeline_parallel": options.pipeline,
        "memory": memory_dict(build.memory) if build.memory else None,
        "build": [_step(step) for step in build_steps(build)],
        "python": python_alternative(build) or None,
        "serve": [_step(step) for step in serve_steps(build)],
    }


def _step(step: Step) -> dict[str, Any]:
    return {"why": step.why, "command": step.command, "arguments": list(step.arguments)}


def versions_text() -> str:
    """All facts without their sources, as tables."""
    models = [
        (
            ", ".join(row.model_types) + (f" with {row.variant}" if row.variant else ""),
            _span(row),
            " + ".join(row.programs),
            row.pipeline_since or "no",
        )
        for row in facts.RECIPES
    ]
    options = [
        (
            ", ".join(row.programs),
            f"{row.name} {row.value}".rstrip(),
            _span(row),
            row.default,
            row.when,
            row.why,
        )
        for row in facts.OPTIONS
    ]
    releases = [
        (row.version, row.container, row.tensorrt or "?", row.trap) for row in facts.RELEASES
    ]
    quantizations = [
        (", ".join(row["quantizations"]), ", ".join(row["model_types"]), row["since"])
        for row in facts.FACTS["quantized_models"]
    ]
    gpus = [(row.name, row.capability, _span(row)) for row in facts.GPUS.values()]
    changes = [(row["since"], row["what"]) for row in facts.FACTS["changes"]]
    return "\n\n".join(
        [
            _table(("TensorRT-LLM", "container", "TensorRT", "attention"), releases),
            _table(("model_type", "versions", "programs", "pipeline since"), models),
            _table(("program", "option", "versions", "default", "only for", "why"), options),
            _table(("quantization", "model_type", "since"), quantizations),
            _table(("GPU", "compute capability x 10", "versions"), gpus),
            _table(("since", "change"), changes),
        ]
    )


def _span(row: Recipe | Option | Gpu) -> str:
    return row.since if row.since == row.until else f"{row.since} … {row.until}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
