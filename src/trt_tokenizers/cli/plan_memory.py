"""The command plan."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import click

from trt_tokenizers.cli.common import FOLDER, PATH, Command
from trt_tokenizers.errors import SettingsError


@click.command("plan", cls=Command)
@click.argument("folder", type=FOLDER)
@click.option(
    "--engine",
    "engine_name",
    default="tensorrtllm",
    show_default=True,
    type=click.Choice(["tensorrtllm", "transformers"]),
    help="The engine that runs the model.",
)
@click.option(
    "--gpu-memory",
    type=click.FloatRange(0, min_open=True),
    help="Memory of one GPU in GiB.  [default: this machine's smallest GPU]",
)
@click.option(
    "--fraction",
    default=0.9,
    type=click.FloatRange(0, 1, min_open=True),
    help="Value of kv_cache_free_gpu_mem_fraction.",
)
@click.option(
    "--tp",
    default=0,
    show_default="the engine's",
    type=click.IntRange(0),
    help="Tensor parallel size.",
)
@click.option(
    "--pp",
    default=0,
    show_default="the engine's",
    type=click.IntRange(0),
    help="Pipeline parallel size.",
)
@click.option("--dtype", default="", show_default="its own", help="Type of a checkpoint's weights.")
@click.option(
    "--max-num-tokens",
    type=click.IntRange(1),
    help="Tokens of one iteration, for tensorrtllm.  [default: the engine's, else 8192]",
)
@click.option(
    "--max-seq-len", type=click.IntRange(1), help="Tokens of a sequence.  [default: the model's]"
)
@click.option("--picture", type=PATH, help="Also draw the bar into this .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, sizes in bytes.")
@click.pass_context
def plan(
    ctx: click.Context,
    *,
    folder: Path,
    engine_name: str,
    gpu_memory: float | None,
    fraction: float,
    tp: int,
    pp: int,
    dtype: str,
    max_num_tokens: int | None,
    max_seq_len: int | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Show how each GPU's memory is used, and how many tokens and sequences fit.

    FOLDER is a Hugging Face model or a TensorRT-LLM engine. Weights and the KV cache's bytes per
    token are exact. Activations are estimated.

    \b
    Example:
      trt-tokenizers plan ./Llama-2-13b-hf --gpu-memory 80 --tp 2
      trt-tokenizers plan ./engine --fraction 0.5 --picture plan.svg
      trt-tokenizers plan ./SmolLM2-135M-Instruct --engine transformers --gpu-memory 24

    \b
    Exit codes:
      0  the model fits
      1  it does not fit, or the folder is not a model or an engine
      2  wrong options
    """
    from trt_tokenizers.memory import planner, report
    from trt_tokenizers.memory.gpus import host_gpus
    from trt_tokenizers.memory.model_sizes import read_model

    size = None if gpu_memory is None else int(gpu_memory * planner.GIB)
    if size is None:
        sizes = [gpu.memory for gpu in host_gpus(os.environ) if gpu.memory]
        if not sizes:
            raise SettingsError(
                "no GPU on this machine reports its memory; give it: --gpu-memory 80"
            )
        size = min(sizes)
    model = read_model(folder, dtype)
    engine: planner.EngineWorkspace = planner.tensorrt_llm
    if engine_name == "transformers":
        if max_num_tokens or pp > 1:
            raise SettingsError(
                "the engine 'transformers' has neither pipeline parallelism nor max_num_tokens; "
                "remove --pp and --max-num-tokens"
            )
        from trt_tokenizers.engines.transformers import memory as engine_memory
        from trt_tokenizers.engines.transformers.settings import TransformersSettings

        settings = TransformersSettings(model_dir=str(folder))
        engine, max_num_tokens = engine_memory.workspace(settings), settings.batch_tokens("cuda")
    model = replace(
        model,
        max_num_tokens=max_num_tokens or model.max_num_tokens,
        max_seq_len=max_seq_len or model.max_seq_len,
    )
    estimate = planner.estimate(model, size, fraction, tp, pp, engine=engine)
    if picture is not None:
        report.draw(estimate, picture)
    if as_json:
        click.echo(json.dumps(report.as_dict(estimate), indent=1))
    else:
        click.echo(report.text(estimate))
    if not planner.fits(estimate):
        ctx.exit(1)
