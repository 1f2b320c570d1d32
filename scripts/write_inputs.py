#!/usr/bin/env python3
"""Write the inputs in model_repo_skeleton, the tables of docs/{ensemble,openai-fields}.md and
docs/commands.md.

They come from streams/ensemble_inputs.py, openai/fields.py and cli/; run this after changes.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import click

from trt_tokenizers.cli.main import main
from trt_tokenizers.openai import fields
from trt_tokenizers.streams.ensemble_inputs import INPUTS, Input

ROOT = Path(__file__).parents[1]
_SKELETON = [each for each in INPUTS if each.skeleton]
#: Generated lines follow this comment.
_PBTXT = re.compile(r"(?m)^( *# From the table of inputs.*\n)(?: *input.*\n)*")
_TYPES = {"STRING": "string", "FP32": "float"}


def files() -> dict[Path, str]:
    """Each file with the text that it should have."""
    made = {}
    for model, blocks in (
        ("ensemble", [_tensors("name"), _maps("to_preprocessing"), _maps("to_engine")]),
        ("preprocessing", [_tensors("to_preprocessing")]),
        ("tensorrt_llm", [_tensors("to_engine")]),
    ):
        path = ROOT / "model_repo_skeleton" / model / "config.pbtxt"
        left = iter(blocks)
        made[path] = _PBTXT.sub(lambda found, left=left: found[1] + next(left), path.read_text())
    openai = fields.markdown().replace("(#", "(openai.md#")
    for page, table in {"ensemble": markdown(), "openai-fields": openai}.items():
        path = ROOT / "docs" / f"{page}.md"
        head = table.partition("\n")[0]
        made[path] = re.sub(
            rf"(?m)^{re.escape(head)}\n(\|.*\n)*", lambda _, table=table: table, path.read_text()
        )
    made[ROOT / "docs" / "commands.md"] = commands()
    return made


def commands() -> str:
    """The text of docs/commands.md."""
    group = click.Context(main, info_name="trt-tokenizers")
    names = [(name, f"trt-tokenizers {name}") for name in main.list_commands(group)]
    parts = [
        "# Commands\n\nLook up here every command with its options, examples and exit codes. "
        "`COMMAND --help` shows the same.\n`launch_server` is `trt-tokenizers launch`, and "
        "`fill_template` is `trt-tokenizers fill-template`. An option may have `_` for `-`.\n\n"
        "<!-- By scripts/write_inputs.py. -->\n"
    ]
    for name, title in names:
        command = main.commands[name]
        parts.append(f"\n## {title}\n\n{_help(command.help or '')}\n")
        context = click.Context(command, info_name=name, **command.context_settings)
        records = [each.get_help_record(context) for each in command.get_params(context)]
        rows = [[cell.replace("|", "\\|") for cell in each] for each in records if each]
        parts.append("\n| option | meaning |\n|---|---|\n")
        parts += [f"| `{option}` | {' '.join(meaning.split())} |\n" for option, meaning in rows]
    return "".join(parts)


def _help(text: str) -> str:
    """A command's help as Markdown. A paragraph after click's backspace keeps its lines."""
    made = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            title, _, lines = paragraph.removeprefix("\b\n").partition("\n")
            made.append(f"{title}\n\n```text\n{inspect.cleandoc(lines)}\n```")
        else:
            made.append(" ".join(paragraph.split()))
    return "\n\n".join(made)


def _tensors(name: str) -> str:
    """The inputs of a model; *name* is the attribute of `Input` with their names there."""
    return "".join(
        f'input {{ name: "{getattr(each, name)}" data_type: TYPE_{each.type} '
        f"dims: [ {str([*each.dims])[1:-1]} ] optional: true }}\n"
        for each in _SKELETON
        if getattr(each, name)
    )


def _maps(name: str) -> str:
    """The inputs of a step of the ensemble."""
    return "".join(
        f'      input_map {{ key: "{getattr(each, name)}" value: "{each.name}" }}\n'
        for each in _SKELETON
        if getattr(each, name)
    )


def markdown() -> str:
    """The table of docs/ensemble.md."""
    head = "| name | type | default | range | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(map(_row, INPUTS))


def _row(each: Input) -> str:
    kind = _TYPES.get(each.type, each.type.lower()) + ("s" if each.dims == (-1,) else "")
    default = "" if each.default is None else f"`{json.dumps(each.default)}`"
    meaning = each.meaning
    if len(each.engines) == 1:
        meaning += f". Engine {min(each.engines)} only"
    if not each.skeleton:
        meaning += ". Only in adopted ensembles that have it"
    return f"| `{each.name}` | {kind} | {default} | {each.range or ''} | {meaning} |\n"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
