"""The command generate: from flags, from a deployment file, or both."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from trt_tokenizers.cli.common import Command, pairs
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import nearest

#: Options that a deployment file gives as a mapping.
_MAPPINGS = {"set": "values", "engine-parameter": "engine_parameters", "llm-arg": "llm_args",
             "engine-arg": "engine_args"}  # fmt: skip


class _FromFile(Command):
    """A command whose defaults may come from a file; flags win, and name by name within --set."""

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
        if parameter.name not in ("config", "force", "print_only")
    }
    defaults: dict[str, Any] = {}
    mappings: dict[str, tuple[str, ...]] = {}
    for key, value in _load(path).items():
        name = str(key).replace("_", "-")
        if name not in options:
            click.echo(
                f"error: {path}: unknown key {key!r}{nearest(name, options)}; known are: "
                f"{', '.join(sorted(options))}",
                err=True,
            )
            ctx.exit(2)
        if name in _MAPPINGS and isinstance(value, dict):
            mappings[_MAPPINGS[name]] = tuple(
                f"{k}={json.dumps(v) if name.endswith('-arg') else _text(v)}"
                for k, v in value.items()
            )
        elif isinstance(value, (dict, list)) and name != "outputs":
            click.echo(f"error: {path}: {key} must be one value", err=True)
            ctx.exit(2)
        else:
            words = value if isinstance(value, list) else [value]
            defaults[str(options[name].name)] = ",".join(map(_text, words))
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta[__name__] = mappings


def _load(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            try:
                import yaml
            except ModuleNotFoundError:
                raise click.UsageError(
                    f"{path} needs PyYAML: pip install pyyaml; or write it as JSON, in a file "
                    "that ends in .json"
                ) from None
            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from None
    except ValueError as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"{path} holds no mapping; write one «key: value» a line")
    return found


def _text(value: Any) -> str:
    """As a config.pbtxt has it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command("generate", cls=_FromFile)
@click.option(
    "--config",
    is_eager=True,
    expose_value=False,
    callback=_read_file,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A YAML or JSON file with these options as keys; options given here win.",
)
@click.option(
    "--engine",
    default="transformers",
    help="In the tensorrt_llm slot: transformers, vllm, llmapi (TensorRT-LLM 1.x), tensorrtllm "
    "(its C++ backend), or your own.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model's folder; Python engines need it. Of llmapi and vllm, a name on the hub too.",
)
@click.option(
    "--engine-dir", type=click.Path(path_type=Path), help="Of tensorrtllm: the engine's folder."
)
@click.option(
    "--tensorrt-llm-version", default="", help="Of tensorrtllm.  [default: as the engine says]"
)
@click.option("--output", type=click.Path(path_type=Path), help="What to make.")
@click.option(
    "--tokenizer-dir",
    type=click.Path(path_type=Path),
    help="The tokenizer's folder.  [default: the model's]",
)
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
    help="The ensemble's outputs; beside the usual ones output_ids, batch_index, sequence_index.",
)
@click.option(
    "--engine-parameter",
    "engine_parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of an engine of your own: what it takes.",
)
@click.option(
    "--llm-arg",
    "llm_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of llmapi: an argument of LLM(), as JSON or plain text; a.b=VALUE sets b inside a.",
)
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="For vllm: a field of AsyncEngineArgs, as JSON or plain text; a.b=VALUE sets b inside a.",
)
@click.option("--print", "print_only", is_flag=True, help="Print the files, write none.")
@click.option("--force", is_flag=True, help="Replace what this command made; nothing else.")
def generate(
    *,
    engine: str,
    model: Path | None,
    engine_dir: Path | None,
    tensorrt_llm_version: str,
    output: Path | None,
    tokenizer_dir: Path | None,
    tokenizer_type: str,
    template: str,
    copy_tokenizer: bool,
    values: tuple[str, ...],
    outputs: str,
    engine_parameters: tuple[str, ...],
    llm_args: tuple[str, ...],
    engine_args: tuple[str, ...],
    print_only: bool,
    force: bool,
) -> None:
    """Write a complete model repository.

    What is not said comes from the model's own files: the tokenizer's type and template, the ends
    of an answer, lengths, the engine's batch size and version. All names for --set:
    trt-tokenizers settings.

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
      1  a value, the model's folder or the output is wrong; nothing was written
      2  wrong options
    """
    from trt_tokenizers.repository.check import check as problems
    from trt_tokenizers.repository.generate import GenerateOptions, render, tokenizer_files, write
    from trt_tokenizers.repository.tensorrtllm_backend import ranks

    deployment = GenerateOptions(
        engine=engine,
        model_dir=model,
        tokenizer_dir=tokenizer_dir,
        engine_dir=engine_dir,
        version=tensorrt_llm_version,
        tokenizer_type=tokenizer_type,
        template=template,
        copy_tokenizer=copy_tokenizer,
        values=pairs(values),
        engine_parameters=pairs(engine_parameters),
        llm_args=_nested("--llm-arg", llm_args),
        engine_args=_nested("--engine-arg", engine_args),
        outputs=tuple(name.strip() for name in outputs.split(",") if name.strip()),
    )
    rendered, copies = render(deployment), tokenizer_files(deployment)
    if print_only:
        for path, text in rendered.items():
            click.echo(f"==> {path} <==\n{text}")
        for path, source in copies.items():
            click.echo(f"==> {path} <== copy of {source}")
        return
    if output is None:
        raise SettingsError("there is no --output; say which folder to make")
    verify = partial(problems, engines=engine_dir is None or engine_dir.is_dir())
    write(rendered, output, force=force, copies=copies, verify=verify)
    world = ranks(engine_dir) if engine_dir is not None else 1
    size = f" --world-size {world}" if world > 1 else ""
    click.echo(
        f"wrote {output}; serve it with: launch_server --model-repo {output}{size}", err=True
    )


def _nested(option: str, options: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE, A.B=VALUE, … -> nested values."""
    made: dict[str, Any] = {}
    for path, text in pairs(options).items():
        value: Any = text
        with contextlib.suppress(ValueError):  # plain text
            value = json.loads(text)
        *groups, name = path.split(".")
        inner = made
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise SettingsError(f"{option} {path}={text}: {group} has a value already")
        inner[name] = value
    return made
