"""The command trt-tokenizers itself: what it says, its groups, and the nearest names."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from trt_tokenizers.cli.main import GROUPS, main


def run(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(main, arguments)


def test_alone_it_says_in_four_lines_what_it_is_for() -> None:
    alone = run()
    assert alone.exit_code == 0
    purpose = alone.output.split("\n\n")[1].splitlines()
    assert len(purpose) == 4
    assert "Triton" in purpose[0]
    assert purpose[-1].endswith("trt-tokenizers serve demo")
    headings = re.findall(r"(?m)^(\w+):$", alone.output)
    assert headings == ["Options", *GROUPS]


def test_every_command_has_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(main.commands)


def test_summaries_are_whole_sentences() -> None:
    summaries = "".join(run().output.partition("\nTry:")[2].split())
    assert "..." not in summaries
    for command in main.commands.values():
        paragraph = " ".join((command.help or "").split("\n\n")[0].split())
        assert paragraph.split(". ")[0].replace(" ", "").rstrip(".") in summaries


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["generat"], "'generate'"),
        (["demo_modle"], "'demo-model'"),
        (["serve", "m", "--engin", "vllm"], "'--engine'"),
        (["launch", "--model_rep", "m"], "'--model-repo'"),
    ],
)
def test_an_unknown_name_names_the_nearest(arguments: list[str], nearest: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert nearest in done.stderr.splitlines()[-1]


def test_names_may_have_underscores() -> None:
    assert run("demo_model", "--help").exit_code == 0


@pytest.mark.parametrize("command", sorted(main.commands))
def test_a_default_is_said_once(command: str) -> None:
    options = re.split(r"\n  (?=-)", run(command, "--help").output.partition("Options:\n")[2])
    for option in options:
        assert option.count("[default:") <= 1, option
        assert '""' not in option
        assert "0: " not in option or "[default: 0" not in option, "say what 0 stands for"
