"""The commands launch_server, launch and chat: options, help, errors, exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trt_tokenizers.cli.main import launch_server, main


def run(*arguments: str, command: object = launch_server) -> Result:
    return CliRunner().invoke(command, arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_has_an_example_and_exit_codes(command: str) -> None:
    result = run(command, "--help", command=main)
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "Exit codes:" in result.output
    assert f"  {command} " in run("--help", command=main).output


def test_launch_is_launch_server() -> None:
    assert main.commands["launch"] is launch_server


def dry_run(tmp_path: Path, *more: str) -> Result:
    program = tmp_path / "tritonserver"
    program.touch(mode=0o755)
    for name, says in (("mpirun", "mpirun (Open MPI) 5.0.11"), ("srun", "slurm 22")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    arguments = ["--model_repo", "x", "--tritonserver", str(program), "--dry-run", *more]
    return CliRunner().invoke(launch_server, arguments, env=path)


def test_a_dry_run_prints_the_command_and_starts_nothing(tmp_path: Path) -> None:
    result = dry_run(tmp_path, "--world-size", "2", "--hosts", "a:1,b:1", "--host", "0.0.0.0")
    assert result.exit_code == 0, result.output
    words = shlex.split(result.output, comments=True)
    assert words[0] == str(tmp_path / "mpirun")
    assert words[words.index("--host") + 1] == "a:1,b:1"
    assert f"--model-repository={Path('x').absolute()}" in words


def test_the_old_scripts_options_are_accepted(tmp_path: Path) -> None:
    result = dry_run(
        tmp_path,
        *("--world_size", "2", "--grpc_port", "11", "--http_port", "12", "--metrics_port", "13"),
        *("--force", "--log", "--log-file", "y", "--tensorrt_llm_model_name", "a,b"),
        *("--multi-model", "--disable-spawn-processes", "--oversubscribe"),
        *("--trtllm_llmapi_launch", "--exit_timeout", "7"),
        *("--multimodal_gpu0_cuda_mem_pool_bytes", "5"),
    )
    assert result.exit_code == 0, result.output
    words = shlex.split(result.output, comments=True)
    follower = words[words.index("--follower") + 1 :]
    assert follower[0] == "trtllm-llmapi-launch"
    assert {"--load-model=a", "--load-model=b", "--log-verbose=3"} <= set(follower)
    assert {"--grpc-port=11", "--http-port=12", "--metrics-port=13"} <= set(words)
    assert {"--cuda-memory-pool-byte-size=0:5", "--exit-timeout-secs=7"} <= set(words)
    assert {"slot:OVERSUBSCRIBE", "--env=TRTLLM_ORCHESTRATOR=1"} <= set(words)
    assert dry_run(tmp_path, "--no-mpi").exit_code == 0
    assert dry_run(tmp_path, "-f").exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--no-mpi", "--world-size", "2"], "--mpi none starts one rank, and --world-size is 2"),
        (["--no-mpi", "--mpi", "slurm"], "--no-mpi and --mpi slurm contradict each other"),
        (["--hosts", "a", "--hostfile", "f"], "--hosts and --hostfile are both given"),
        (["--log-file", "a", "--log-dir", "f"], "--log-file and --log-dir are both given"),
        (["--multi-model", "--world-size", "2"], "use --world-size 1, or add --disable-spawn-processes"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, more: list[str], message: str) -> None:
    result = dry_run(tmp_path, *more)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_an_option_without_effect_is_reported(tmp_path: Path) -> None:
    result = dry_run(tmp_path, "--disable-spawn-processes")
    assert result.exit_code == 0
    assert "--disable-spawn-processes has no effect: no --multi-model" in result.stderr


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


def test_the_environment_may_name_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_chat_with_an_invalid_url() -> None:
    result = CliRunner().invoke(main, ["chat", "--url", "localhost"], input="hi\n")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: 'localhost' is not a server URL")
