"""The commands build-command and versions."""

from __future__ import annotations

import json
from typing import Any

import click

from trt_tokenizers.cli.common import FOLDER, PATH, Command


@click.command("build-command", cls=Command)
@click.option("--model", type=FOLDER, required=True, help="The model's folder, Hugging Face's.")
@click.option(
    "--tensorrt-llm-version",
    "version",
    required=True,
    help="TensorRT-LLM's version, such as 0.17 or 0.17.0.",
)
@click.option("--world-size", default=1, type=click.IntRange(1), help="Ranks, one GPU each.")
@click.option(
    "--tp",
    "tensor",
    default=0,
    show_default="the rest",
    type=click.IntRange(0),
    help="Tensor parallel size.",
)
@click.option(
    "--pp",
    "pipeline",
    default=0,
    show_default="1, with --tp the rest",
    type=click.IntRange(0),
    help="Pipeline parallel size.",
)
@click.option("--dtype", default="", show_default="the model's", help="float16, bfloat16, float32.")
@click.option(
    "--quantization",
    default="",
    show_default="none",
    help="int8_wo, int4_wo, int8_sq, int4_awq, fp8 or nvfp4.",
)
@click.option(
    "--max-batch-size",
    default=0,
    show_default="the version's",
    type=click.IntRange(0),
    help="Requests at once.",
)
@click.option(
    "--max-input-len",
    default=0,
    show_default="the version's",
    type=click.IntRange(0),
    help="Tokens of a prompt.",
)
@click.option(
    "--max-seq-len",
    default=0,
    show_default="the version's",
    type=click.IntRange(0),
    help="Tokens of a prompt and its answer.",
)
@click.option(
    "--max-num-tokens",
    default=0,
    show_default="the version's",
    type=click.IntRange(0),
    help="Tokens of one iteration.",
)
@click.option(
    "--gpu-memory",
    type=click.FloatRange(0, min_open=True),
    help="Memory of one GPU in GiB, to plan it.",
)
@click.option("--gpu", default="", help="The GPU, such as A100, to check its types.")
@click.option(
    "--output-dir",
    "output",
    default="engine",
    type=PATH,
    help="The engine's folder. The checkpoint and model_repo are made beside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, sizes in bytes.")
def build_command(*, gpu_memory: float | None, as_json: bool, **others: Any) -> None:
    """Print the commands that build a TensorRT-LLM engine, and those that serve it.

    They are the commands of that version for the model's architecture. Nothing is run.

    \b
    Example:
      trt-tokenizers build-command --model ./Llama-2-7b-hf --tensorrt-llm-version 0.17 \\
        --world-size 2 --gpu H100 --gpu-memory 80
      trt-tokenizers build-command --model M --tensorrt-llm-version 0.5 --json

    \b
    Exit codes:
      0  printed
      1  this version cannot build the model in this way, or it does not fit into the memory
      2  wrong options
    """
    from trt_tokenizers.memory.planner import GIB
    from trt_tokenizers.repository.builds import report
    from trt_tokenizers.repository.builds.options import BuildOptions
    from trt_tokenizers.repository.builds.plan import plan_build

    build = plan_build(BuildOptions(gpu_memory=int((gpu_memory or 0) * GIB), **others))
    click.echo(json.dumps(report.as_dict(build), indent=1) if as_json else report.text(build))


@click.command("versions", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, with all sources.")
def versions(*, as_json: bool) -> None:
    """List what is known of TensorRT-LLM's versions: containers, models, options, changes.

    \b
    Example:
      trt-tokenizers versions
      trt-tokenizers versions --json

    \b
    Exit codes:
      0  listed
      2  wrong options
    """
    from trt_tokenizers.repository.builds import facts, report

    if as_json:
        click.echo(json.dumps(facts.FACTS, indent=1, ensure_ascii=False))
    else:
        click.echo(report.versions_text())
