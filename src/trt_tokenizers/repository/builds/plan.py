"""Checks whether an engine can be built, and what its build needs. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trt_tokenizers.errors import RepositoryError, SettingsError
from trt_tokenizers.hf_config import text_model
from trt_tokenizers.memory import planner
from trt_tokenizers.memory.engine_folder import read_config
from trt_tokenizers.memory.model_sizes import bits, read_model
from trt_tokenizers.memory.report import text as memory_text
from trt_tokenizers.repository.builds import facts
from trt_tokenizers.repository.builds.checks import (
    ModelConfig,
    check_quantized_checkpoint,
    check_split,
    choose_dtype,
    find_quantization,
    find_recipe,
)
from trt_tokenizers.repository.builds.facts import Option, Quantization, Recipe, Release
from trt_tokenizers.repository.builds.options import BuildOptions


@dataclass(frozen=True)
class Build:
    """A build that is possible.

    Attributes:
        options: with all values decided, except for limits that have the version's default.
        memory: of one GPU; None if it was not asked for.
    """

    options: BuildOptions
    release: Release
    recipe: Recipe
    model_type: str
    quantization: Quantization | None
    memory: planner.MemoryEstimate | None

    @property
    def programs(self) -> list[str]:
        """The programs to run, in their order."""
        if self.quantization is not None and not self.quantization.condition:
            return ["quantize.py", "trtllm-build"]
        return self.recipe.programs

    @property
    def conditions(self) -> set[str]:
        """The conditions of options that are true."""
        chosen, quantization = {self.model_type}, self.quantization
        if self.options.world_size > 1:
            chosen.add("several_ranks")
        if quantization is None or quantization.condition:
            chosen.add("plain_gemm")
        if quantization is not None:
            chosen.add("fp8_kv_cache" if quantization.fp8_kv_cache else quantization.condition)
        return chosen

    @property
    def limits(self) -> dict[str, int]:
        """The user's limits by option; 0: left to the version.

        Before 0.11 the lengths of prompt and answer are limited, not their sum.
        """
        given = self.options
        prompt, answer = given.max_input_len, 0
        if given.max_seq_len and any(row.name == "--max_output_len" for row in self._last()):
            prompt = prompt or given.max_seq_len // 2
            answer = given.max_seq_len - prompt
        return {
            "max_batch_size": given.max_batch_size,
            "max_input_len": prompt,
            "max_output_len": answer,
            "max_seq_len": given.max_seq_len,
            "max_num_tokens": given.max_num_tokens,
        }

    def limit(self, name: str) -> int:
        """The limit *name* that the engine will have; 0: it is not known, or not this version's."""
        words = [row.ours or row.default for row in self._last() if row.name == f"--{name}"]
        return self.limits[name] or next((int(word) for word in words if word.isdecimal()), 0)

    def _last(self) -> Iterator[Option]:
        return self.rows(self.programs[-1])

    def rows(self, program: str) -> Iterator[Option]:
        """The options of *program* for this build, in their order."""
        return (
            row
            for row in facts.OPTIONS
            if program in row.programs
            and facts.valid(row, self.release.version)
            and (not row.when or row.when in self.conditions)
        )


def plan_build(options: BuildOptions) -> Build:
    """Check *options* and decide what the user left open.

    Raises:
        SettingsError: the options contradict each other.
        RepositoryError: this version cannot build the model in this way, or it does not fit.
    """
    for path in (options.model.absolute(), options.output.absolute()):
        if {":", ","} & set(str(path)):
            raise SettingsError(
                f"{path} has a colon or a comma, which separate values for docker and "
                "fill_template; use another folder"
            )
    release = facts.find_release(options.version)
    config = read_config(options.model, "a model's folder in Hugging Face's layout")
    model = ModelConfig(options.model / "config.json", text_model(config), release.version)
    options = _parallel(options)
    recipe = find_recipe(model)
    check_split(options, model, recipe)
    check_quantized_checkpoint(options, model)
    quantization = find_quantization(options.quantization, model) if options.quantization else None
    options = replace(options, dtype=choose_dtype(options, model))
    if options.max_seq_len and options.max_input_len >= options.max_seq_len:
        raise SettingsError(
            f"--max-input-len {options.max_input_len} leaves no token to generate within "
            f"--max-seq-len {options.max_seq_len}; make it smaller"
        )
    build = Build(options, release, recipe, model.type, quantization, None)
    _check_limits(build)
    return replace(build, memory=_memory(build)) if options.gpu_memory else build


def _parallel(options: BuildOptions) -> BuildOptions:
    world = options.world_size
    pipeline = options.pipeline or (world // options.tensor if options.tensor else 1) or 1
    tensor = options.tensor or world // pipeline
    if tensor * pipeline != world:
        raise SettingsError(
            f"--tp {tensor} x --pp {pipeline} is {tensor * pipeline} and --world-size is {world}; "
            "make them equal"
        )
    return replace(options, tensor=tensor, pipeline=pipeline)


def _check_limits(build: Build) -> None:
    """No limit is left out because a program has no option for it."""
    rows = [row for name in build.programs for row in build.rows(name)]
    missing = [
        f"--{name.replace('_', '-')}"
        for name, value in build.limits.items()
        if value and name != "max_seq_len" and not any(row.name == f"--{name}" for row in rows)
    ]
    if missing:
        raise RepositoryError(
            f"{build.programs[-1]} of TensorRT-LLM {build.release.version} has no known option for "
            f"{' and '.join(missing)}; leave it out, or use a newer version"
        )


def _memory(build: Build) -> planner.MemoryEstimate:
    options, quantization = build.options, build.quantization
    model = read_model(options.model)
    if not (model.config or {}).get("quantization_config"):
        model = read_model(options.model, options.dtype)
    weights, kv_bits = model.weights, model.kv_bits
    if quantization is not None:
        weights = weights * quantization.bits // bits(options.dtype, "--dtype")
        kv_bits = 8 if quantization.fp8_kv_cache else kv_bits
    prompt, answer = build.limit("max_input_len"), build.limit("max_output_len")
    length = options.max_seq_len or (prompt + answer if answer else model.max_seq_len)
    tokens = build.limit("max_num_tokens") or (build.limit("max_batch_size") * (prompt or length))
    model = replace(
        model, weights=weights, kv_bits=kv_bits, max_seq_len=length,
        max_num_tokens=tokens or model.max_num_tokens,
    )  # fmt: skip
    found = planner.estimate(model, options.gpu_memory, 0.9, options.tensor, options.pipeline)
    if not planner.fits(found):
        raise RepositoryError(memory_text(found))
    return found
