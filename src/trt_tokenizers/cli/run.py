"""The command run: the ensemble without a server. Its sampling options come from the table of
inputs."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from trt_tokenizers.cli.common import (
    FILE,
    FOLDER,
    PATH,
    Command,
    nested,
    pairs,
    schema_option,
)
from trt_tokenizers.cli.generate import generate
from trt_tokenizers.processing.answer_schema import AnswerSchema
from trt_tokenizers.streams.ensemble_inputs import INPUTS, Input

if TYPE_CHECKING:
    from trt_tokenizers.pipeline import Answer, Pipeline, Prompt
    from trt_tokenizers.processing.batch_job import BatchJob

#: Options of generate that describe the model and its engine.
_MODEL = {
    "engine", "model_dir", "engine_dir", "tokenizer_dir", "tokenizer_type", "template", "values",
    "engine_parameters", "llm_args", "engine_args",
}  # fmt: skip
_TYPES: dict[str, Any] = {"INT32": int, "UINT64": int, "FP32": float, "STRING": str, "BOOL": bool}
#: Inputs with an option of another form.
_OWN = ("text_input", "messages", "stream")


def _sampling_options() -> Iterator[click.Option]:
    """An option for each input that the engines serve and that has an effect."""
    for each in INPUTS:
        idle = each.meaning.startswith(("accepted without effect", "older name"))
        served = each.engines and each.only is None and each.skeleton and not idle
        if served and each.name not in _OWN:
            yield _option(each)


def _option(each: Input) -> click.Option:
    name = each.name.replace("_", "-")
    text = re.sub(r"; see \[.*?\)|\[([^]]*)\]\(.*?\)|`", r"\1", each.meaning)  # no Markdown
    several = -1 in each.dims
    return click.Option(
        [f"--{name}/--no-{name}" if each.type == "BOOL" else f"--{name}"],
        type=_TYPES[each.type],
        default=None,
        multiple=several,
        help=f"{text[0].upper()}{text[1:]}.{' Repeatable.' if several else ''}",
    )


@click.command("run", cls=Command)
@click.argument("prompt", required=False)
@click.option("--model-repo", type=FOLDER, help="A model repository, instead of --model.")
@click.option("--messages", metavar="FILE|JSON", help="Chat messages instead of PROMPT.")
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Print the answer as it is generated.  [default: on a terminal, without --json]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the ensemble's outputs.")
@click.option(
    "--input",
    "requests",
    type=FILE,
    help="Requests: .jsonl with an object of inputs in each line, or a text in each line.",
)
@click.option("--output", "answers", type=PATH, help="For --input: the file of JSON answers.")
@schema_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    prompt: str | None,
    model_repo: Path | None,
    messages: str | None,
    stream: bool | None,
    as_json: bool,
    requests: Path | None,
    answers: Path | None,
    schema: AnswerSchema | None,
    **others: Any,
) -> None:
    """Answer PROMPT (or standard input) without a server, with the text that a server gives.

    PROMPT is given to the model unchanged; --messages uses the chat template. From standard input
    the line end at the end is removed. The options about the model are those of generate.

    With --input, every request of a file is answered, many at once. The same command goes on where
    it was stopped.

    \b
    Example:
      trt-tokenizers run --model ./SmolLM2-135M-Instruct "Once upon a time" --max-tokens 32
      trt-tokenizers run --model M --messages '[{"role": "user", "content": "Hello"}]'
      trt-tokenizers run --model-repo model_repo --input requests.jsonl --output answers.jsonl

    \b
    Exit codes:
      0  answered; with --input: all requests
      1  the model does not load, or a request was refused or failed
      2  wrong options
    """
    model = {name: others.pop(name) for name in _MODEL}
    load = _loader(ctx, model_repo, **model)
    parameters = {name: value for name, value in others.items() if value not in (None, ())}
    parameters |= schema.inputs if schema else {}
    if sum(each is not None for each in (prompt, messages, requests)) > 1:
        raise click.UsageError("give one of PROMPT, --messages and --input")
    if (requests is None) != (answers is None):
        raise click.UsageError("--input and --output go together; give both")
    if requests is not None and stream:
        raise click.UsageError("--input has whole answers; leave --stream out")

    def check(answer: Answer) -> None:
        if schema is not None:
            schema.check(answer.text, answer.finish_reason, answer.num_output_tokens)

    if requests is not None and answers is not None:
        from trt_tokenizers.processing.batch_job import BatchJob

        _answer_file(ctx, load, BatchJob(requests, answers, parameters), check)
        return
    several = parameters.get("num_return_sequences", 1) > 1
    if stream is None:
        stream = sys.stdout.isatty() and not (as_json or several or schema)
    elif stream and (schema or (several and not as_json)):
        what = "--schema" if schema else "--num-return-sequences without --json"
        raise click.UsageError(f"{what} needs whole answers; leave --stream out")
    asked = _prompt(prompt, messages)
    with _stdout_of_answers() as stdout:
        with load() as pipeline:
            if stream:
                with contextlib.closing(pipeline.stream(asked, **parameters)) as parts:
                    for part in parts:
                        click.echo(_json(part) if as_json else part.text, stdout, nl=as_json)
                click.echo(file=stdout, nl=not as_json)
                return
            answer = pipeline.generate(asked, **parameters)
        whole = (answer, *answer.others)
        for each in whole:
            check(each)
        for text in [_json(answer)] if as_json else [each.text for each in whole]:
            click.echo(text, stdout)


@contextlib.contextmanager
def _stdout_of_answers() -> Iterator[TextIO]:
    """Standard output. What libraries and their processes print meanwhile goes to stderr."""
    own = sys.stdout
    try:
        number = own.fileno()
    except io.UnsupportedOperation:  # no file but a program's object
        yield own
        return
    own.flush()
    with open(os.dup(number), "w", encoding=own.encoding, errors=own.errors) as stdout:  # noqa: PTH123
        os.dup2(sys.stderr.fileno(), number)
        try:
            yield stdout
        finally:
            own.flush()
            os.dup2(stdout.fileno(), number)


def _loader(
    ctx: click.Context,
    model_repo: Path | None,
    /,
    *,
    model_dir: Path | None,
    engine_dir: Path | None,
    engine: str,
    values: tuple[str, ...],
    engine_parameters: tuple[str, ...],
    llm_args: tuple[str, ...],
    engine_args: tuple[str, ...],
    **options: Any,
) -> Callable[[], Pipeline]:
    """What loads the pipeline, with checked options."""
    from trt_tokenizers.pipeline import Pipeline

    if model_repo is not None:
        for option in ctx.command.params:
            given = ctx.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
            if option.name in _MODEL and given:
                raise click.UsageError(f"{option.opts[0]} is in --model-repo; leave it out")
        return functools.partial(Pipeline.from_repository, model_repo)
    if engine_dir is not None:
        engine = "tensorrtllm"
    elif model_dir is None:
        raise click.UsageError("the model is missing; give --model or --model-repo")
    options |= {
        "engine": engine,
        "engine_parameters": pairs(engine_parameters),
        "llm_args": nested("--llm-arg", llm_args),
        "engine_args": nested("--engine-arg", engine_args),
    }
    return functools.partial(Pipeline.from_model, model_dir or "", **{**options, **pairs(values)})


def _prompt(prompt: str | None, messages: str | None) -> Prompt:
    if messages is not None:
        if not messages.lstrip().startswith("["):
            messages = Path(messages).read_bytes().decode(errors="surrogateescape")
        return {"messages": messages}
    if prompt is not None:
        return prompt
    if sys.stdin.isatty():
        raise click.UsageError("the prompt is missing; give PROMPT, --messages or --input")
    text = sys.stdin.buffer.read().decode(errors="surrogateescape")
    return text.removesuffix("\n").removesuffix("\r")


def _json(answer: Answer) -> str:
    return json.dumps(answer.outputs(), ensure_ascii=False)


def _answer_file(
    ctx: click.Context, load: Callable[[], Pipeline], job: BatchJob, check: Callable[[Answer], None]
) -> None:
    with job:
        if job.done < job.total:
            bar = click.progressbar(length=job.total, label="requests", file=sys.stderr)
            with load() as pipeline, bar:
                bar.update(job.done)
                for done in job.run(pipeline.as_completed, check):
                    bar.update(done - bar.pos)
    failed = f", {job.failed} failed" if job.failed else ""
    click.echo(f"{job.done} of {job.total} requests are answered{failed}", err=True)
    if job.failed:
        ctx.exit(1)


run.params[-1:-1] = [
    *(option for option in generate.params if option.name in _MODEL),
    *_sampling_options(),
]
