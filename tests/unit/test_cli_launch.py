"""The commands launch_server, launch and chat: options, help, errors, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trt_tokenizers.cli import launch_server, main


def run(*arguments: str, command: object = launch_server) -> Result:
    return CliRunner().invoke(command, arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["launch", "chat"])
def test_help_has_an_example_and_exit_codes(command: str) -> None:
    result = run(command, "--help", command=main)
    assert result.exit_code == 0
    assert "Example:" in result.output
    assert "Exit codes:" in result.output


def test_the_group_lists_its_commands() -> None:
    output = run("--help", command=main).output
    assert "launch" in output
    assert "chat" in output


def test_launch_server_and_launch_are_one() -> None:
    assert main.commands["launch"] is launch_server


def test_several_ranks_are_refused_in_one_line(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.touch(mode=0o755)
    result = run("--world_size=2", "--model_repo", "x", "--triton_server", str(program))
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --world-size 2: several MPI ranks cannot be launched yet; use --world-size 1\n"
    )


def test_each_problem_is_a_line(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.touch(mode=0o755)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text("x: ${y}\n")
    result = run("--model-repo", str(tmp_path), "--triton-server", str(program))
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if "config.pbtxt:1" in line]
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)


def test_the_server_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONSERVER", "/nowhere/tritonserver")
    result = run("--model-repo", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: --triton-server /nowhere/tritonserver: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--model-repo'"),
        (["--model-repo", "x", "--http_port", "0"], "Invalid value for '--http-port'"),
        (["--model-repo", "x", "--world-size", "0"], "Invalid value for '--world-size'"),
        (["--model-repo", "x", "--nonsense"], "No such option"),
    ],
)
def test_usage_errors_exit_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_chat_without_a_server() -> None:
    result = CliRunner().invoke(main, ["chat", "--url", "http://127.0.0.1:1"], input="hi\n")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: no server answers at http://127.0.0.1:1; start one with launch_server\n"
    )


def test_chat_with_what_is_no_url() -> None:
    result = CliRunner().invoke(main, ["chat", "--url", "localhost"], input="hi\n")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: 'localhost' is no URL of a server")
