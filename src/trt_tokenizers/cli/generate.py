"""The command generate. Its options come from the command line, a deployment file, or both."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from trt_tokenizers.cli.common import FILE, PATH, Command, nested, pairs
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.hf_config import read_mapping
from trt_tokenizers.settings import as_text, nearest


class _FromFile(Command):
    """A command with defaults from a file. Command-line options win, within --set by name."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        ctx = super().make_context(*arguments, **more)
        for name, values in ctx.meta.get(__name__, {}).items():
            ctx.params[name] = (*values, *ctx.params[name])
        return ctx


def _read_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    options = {
        option.removeprefix("--"): parameter
        for parameter in ctx.command.params
        for option in parameter.opts
        if parameter.name not in ("config", "force", "print_only", "debug")
    }
    defaults: dict[str, Any] = {}
    mappings: dict[str, tuple[str, ...]] = {}
    for key, value in _load(path).items():
        name = str(key).replace("_", "-")
        if name not in options:
            raise SettingsError(
                f"{path}: unknown key {key!r}{nearest(name, options)}; valid are: "
                + ", ".join(sorted(options))
            )
        option = options[name]
        if isinstance(option, click.Option) and option.multiple and isinstance(value, dict):
            text = json.dumps if name.endswith("-arg") else as_text
            mappings[str(option.name)] = tuple(f"{k}={text(v)}" for k, v in value.items())
        elif isinstance(value, (dict, list)) and name != "outputs":
            raise SettingsError(f"{path}: {key} must be one value")
        else:
            words = value if isinstance(value, list) else [value]
            defaults[str(option.name)] = ",".join(map(as_text, words))
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta[__name__] = mappings


def _load(path: Path) -> dict[str, Any]:
    fix = "correct it: one «key: value» per line"
    if path.suffix == ".json":
        return read_mapping(path, SettingsError, fix)
    try:
        import yaml
    except ModuleNotFoundError:
        raise SettingsError(
            f"{path} needs PyYAML; run pip install pyyaml, or write JSON into a file that ends in "
            ".json"
        ) from None

    def load(text: str) -> Any:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from None
        except RecursionError:
            raise ValueError("it is nested too deep") from None

    return read_mapping(path, SettingsError, fix, load)


@click.command("generate", cls=_FromFile)
@click.option(
    "--config",
    is_eager=True,
    expose_value=False,
    callback=_read_file,
    type=FILE,
    help="A YAML or JSON file with these options as keys. Command-line options win.",
)
@click.option(
    "--engine",
    default="transformers",
    help="An engine's name such as transformers, vllm or llmapi (TensorRT-LLM 1.x), tensorrtllm "
    "(its C++ backend), or module:Class.",
)
@click.option(
    "--model",
    "model_dir",
    type=PATH,
    help="The model's folder, for Python engines; for llmapi and vllm also a name on the hub.",
)
@click.option("--engine-dir", type=PATH, help="For tensorrtllm: the engine's folder.")
@click.option(
    "--tensorrt-llm-version",
    "version",
    default="",
    show_default="the engine's version",
    help="For tensorrtllm: its version.",
)
@click.option("--output", type=PATH, help="The folder to make.")
@click.option("--tokenizer-dir", type=PATH, help="The tokenizer's folder.  [default: the model's]")
@click.option("--tokenizer-type", default="auto", help="A type's name, or module:Class.")
@click.option("--template", default="auto", help="Chat template: auto, none, llama2, chatml, …")
@click.option(
    "--copy-tokenizer", is_flag=True, help="Copy the tokenizer's files into the repository."
)
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
@click.option(
    "--outputs",
    default="",
    metavar="A,B,…",
    show_default="the usual ones",
    help="The ensemble's outputs: the usual ones, batch_index, sequence_index, …",
)
@click.option(
    "--engine-parameter",
    "engine_parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="For your own engine: one of its parameters.",
)
@click.option(
    "--llm-arg",
    "llm_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="For llmapi: an argument of LLM(), as JSON or plain text; a.b=VALUE sets b inside a.",
)
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="For vllm: a field of AsyncEngineArgs, as JSON or plain text; a.b=VALUE sets b inside a.",
)
@click.option("--print", "print_only", is_flag=True, help="Print the files, write nothing.")
@click.option("--force", is_flag=True, help="Replace files that this command made, no others.")
def generate(
    *,
    engine_dir: Path | None,
    output: Path | None,
    values: tuple[str, ...],
    outputs: str,
    engine_parameters: tuple[str, ...],
    llm_args: tuple[str, ...],
    engine_args: tuple[str, ...],
    print_only: bool,
    force: bool,
    **others: Any,
) -> None:
    """Write a complete model repository.

    Defaults come from the model's files: tokenizer type, template, end tokens, lengths, and the
    engine's batch size and version. To list all names for --set: trt-tokenizers settings.

    \b
    Example:
      trt-tokenizers generate --model ./SmolLM2-135M-Instruct --output model_repo
      trt-tokenizers generate --model M --output R --template llama2 --set dtype=bfloat16
      trt-tokenizers generate --engine llmapi --model M --output R --llm-arg tensor_parallel_size=2
      trt-tokenizers generate --engine vllm --model M --output R --engine-arg dtype=bfloat16
      trt-tokenizers generate --engine tensorrtllm --engine-dir E --tokenizer-dir T --output R
      trt-tokenizers generate --config deployment.yaml --set max_seq_len=4096 --print

    \b
    Exit codes:
      0  written
      1  a value, the model's folder or the output folder is wrong; nothing was written
      2  wrong options
    """
    from trt_tokenizers.memory.engine_folder import read_engine
    from trt_tokenizers.repository.check import check
    from trt_tokenizers.repository.generate import GenerateOptions, render, tokenizer_files, write

    options = GenerateOptions(
        engine_dir=engine_dir,
        values=pairs(values),
        engine_parameters=pairs(engine_parameters),
        llm_args=nested("--llm-arg", llm_args),
        engine_args=nested("--engine-arg", engine_args),
        outputs=tuple(name.strip() for name in outputs.split(",") if name.strip()),
        **others,  # the fields with an option of the same name
    )
    rendered, copies = render(options), tokenizer_files(options)
    if print_only:
        for path, text in rendered.items():
            click.echo(f"==> {path} <==\n{text}")
        for path, source in copies.items():
            click.echo(f"==> {path} <== copy of {source}")
        return
    if output is None:
        raise SettingsError("--output is missing; set it to the folder to make")
    verify = partial(check, engines=engine_dir is None or engine_dir.is_dir())
    write(rendered, output, force=force, copies=copies, verify=verify)
    ranks = len(read_engine(engine_dir).files) if engine_dir and engine_dir.is_dir() else 1
    size = f" --world-size {ranks}" if ranks > 1 else ""
    click.echo(
        f"wrote {output}; serve it with: launch_server --model-repo {output}{size}", err=True
    )
