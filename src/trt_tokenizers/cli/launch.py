"""The command launch_server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from trt_tokenizers.cli.common import PATH, Command
from trt_tokenizers.errors import SettingsError
from trt_tokenizers.launcher.mpi import FLAVOURS, Mpi, find_mpi, parse_hosts, read_hostfile

_PORT = click.IntRange(1, 65535)


@click.command("launch_server", cls=Command)
@click.option("--model-repo", required=True, type=PATH, help="The model repository.")
@click.option(
    "--world-size",
    default=1,
    type=click.IntRange(1),
    help="MPI ranks. Rank 0 loads all models and serves, the others load only the engine.",
)
@click.option("--host", default="127.0.0.1", help="Address to bind to; 0.0.0.0 for all.")
@click.option("--http-port", default=8000, type=_PORT)
@click.option("--grpc-port", default=8001, type=_PORT)
@click.option("--metrics-port", default=8002, type=_PORT)
@click.option(
    "--openai-port",
    type=_PORT,
    help="Serve OpenAI's API at this port too; TRT_TOKENIZERS_OPENAI_… in the environment are the "
    "other options of trt-tokenizers openai.",
)
@click.option(
    "--tensorrt-llm-model-name",
    "engine_models",
    default="tensorrt_llm",
    metavar="NAME[,NAME]...",
    help="The engine models, which all ranks but 0 load.",
)
@click.option(
    "--mpi",
    "flavour",
    type=click.Choice(FLAVOURS),
    help="The MPI that starts the ranks.  [default: none for one rank; slurm inside a Slurm "
    "allocation; else the one that mpirun --version names]",
)
@click.option("--no-mpi", is_flag=True, help="The same as --mpi none.")
@click.option("--mpirun", metavar="PATH", help="The mpirun (or srun) to use.  [default: on PATH]")
@click.option(
    "--mpi-arg", "mpi_args", multiple=True, help="An argument for mpirun or srun; may be repeated."
)
@click.option("--hosts", metavar="[USER@]HOST:RANKS,...", help="Hosts of the ranks, rank 0 first.")
@click.option(
    "--hostfile",
    type=PATH,
    help="The same as a file, one «host slots=n» or «host:n» per line, as Open MPI's.",
)
@click.option("--oversubscribe", is_flag=True, help="Allow more ranks than slots or cores.")
@click.option(
    "--master-port",
    type=_PORT,
    help="MASTER_PORT of the ranks, for torch.distributed.  [default: a free port]",
)
@click.option(
    "--ready-timeout",
    default=1800,
    type=click.FloatRange(0),
    help="Seconds for all models to load; 0: no limit.",
)
@click.option(
    "--exit-timeout",
    "--drain-timeout",
    "exit_timeout",
    default=20,
    type=click.IntRange(0),
    help="Seconds for running requests to finish after a stop request, and again for idle "
    "connections and unloading. 5 seconds later all processes are killed.",
)
@click.option(
    "--triton-server",
    "--tritonserver",
    "triton_server",
    envvar="TRITONSERVER",
    show_envvar=True,
    help="The tritonserver to run.  [default: /opt/tritonserver, PATH or the wheel]",
)
@click.option(
    "--log-file",
    type=PATH,
    help="Append the server's log to this file.  [default: on a terminal, a file that is named; "
    "elsewhere, the standard outputs]",
)
@click.option(
    "--log-dir",
    type=PATH,
    help="Append each rank's output to rankN.log in this folder, on the rank's host.",
)
@click.option("--log", is_flag=True, help="--log-verbose=3, into --log-file or triton_log.txt.")
@click.option(
    "--ready-file",
    type=PATH,
    help="File with the addresses as JSON, written when ready, removed when a stop begins.",
)
@click.option(
    "--auto-complete",
    is_flag=True,
    help="Let Triton complete model configurations. It then loads each Python model twice.",
)
@click.option(
    "--multi-model",
    is_flag=True,
    help="For several TensorRT-LLM engines: TensorRT-LLM's orchestrator starts their ranks.",
)
@click.option(
    "--disable-spawn-processes",
    is_flag=True,
    help="With --multi-model: the engines share the ranks of --world-size.",
)
@click.option(
    "--multimodal-gpu0-cuda-mem-pool-bytes",
    "gpu0_pool",
    default=0,
    type=click.IntRange(0),
    show_default="Triton's",
    help="Bytes of rank 0's CUDA memory pool on GPU 0.",
)
@click.option(
    "--trtllm-llmapi-launch",
    is_flag=True,
    help="Start each rank with trtllm-llmapi-launch, which TensorRT-LLM's LLM API needs.",
)
@click.option(
    "--force", "-f", is_flag=True, help="Start even if another server runs on the repository."
)
@click.option("--dry-run", is_flag=True, help="Print the command instead of starting it.")
@click.option(
    "--verbose",
    "-v",
    count=True,
    show_default=False,
    help="Show the server's log on a terminal too; -vv, -vvv, …: Triton's --log-verbose=1, 2, …",
)
@click.argument("triton_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITON_ARGS]...")
def launch_server(
    *,
    model_repo: Path,
    world_size: int,
    openai_port: int | None,
    engine_models: str,
    flavour: str | None,
    no_mpi: bool,
    mpirun: str | None,
    mpi_args: tuple[str, ...],
    hosts: str | None,
    hostfile: Path | None,
    master_port: int | None,
    ready_timeout: float,
    triton_server: str | None,
    log_file: Path | None,
    log_dir: Path | None,
    log: bool,
    ready_file: Path | None,
    multi_model: bool,
    disable_spawn_processes: bool,
    trtllm_llmapi_launch: bool,
    force: bool,
    dry_run: bool,
    verbose: int,
    triton_args: tuple[str, ...],
    **others: Any,
) -> None:
    """Start Triton on a model repository, wait until it is ready, and watch it until it ends.

    Ctrl-C or SIGTERM lets running requests finish; a second one ends the server at once. If a rank
    dies, all ranks end. No process stays, even if the launcher is killed. Under systemd
    (Type=notify) it reports readiness. Options accept _ instead of -.

    \b
    Examples:
      launch_server --model-repo models --http-port 8000 -- --log-format=ISO8601
      launch_server --model-repo models --world-size 2
      launch_server --model-repo models --world-size 4 --hosts gpu1:2,gpu2:2 --host 0.0.0.0

    \b
    Exit codes:
      0      stopped on request, running requests finished
      1      the server did not start, did not get ready, or a Python model's process died
      2      wrong options
      n      exit code of the tritonserver that failed first
      128+n  that tritonserver or mpirun died of signal n (137: also if all were killed)
    """
    from trt_tokenizers.launcher import preflight
    from trt_tokenizers.launcher.command import LaunchOptions, build_command
    from trt_tokenizers.launcher.front_end import FrontEnd
    from trt_tokenizers.launcher.launch import launch
    from trt_tokenizers.launcher.process_tree import open_standard_streams
    from trt_tokenizers.launcher.tritonserver import find_server
    from trt_tokenizers.memory.gpus import host_gpus
    from trt_tokenizers.mpi_environment import read_rank

    open_standard_streams()
    if (rank := read_rank(os.environ)).size > 1:
        raise SettingsError(
            f"launch_server was started as {rank.size} ranks ({rank.source}); start it once, "
            "because it starts the ranks itself"
        )
    if hosts and hostfile:
        raise SettingsError("--hosts and --hostfile are both given; give one")
    if no_mpi and flavour not in (None, "none"):
        raise SettingsError(f"--no-mpi and --mpi {flavour} contradict each other; give one")
    if log_file and log_dir:
        raise SettingsError("--log-file and --log-dir are both given; give one")
    if log and not log_dir:
        log_file = log_file or Path("triton_log.txt")
    orchestrator = ""
    if multi_model:
        orchestrator = "ranks" if disable_spawn_processes else "spawn"
    elif disable_spawn_processes:
        click.echo("launch: --disable-spawn-processes has no effect: no --multi-model", err=True)
    on_hosts = parse_hosts(hosts) if hosts else read_hostfile(hostfile) if hostfile else ()
    # An orchestrator starts its ranks through the MPI that started it.
    needs_mpi = max(world_size, 2 if orchestrator or on_hosts or mpi_args else 1)
    wanted = "none" if no_mpi else flavour
    if wanted == "none" and world_size == 1:
        mpi = Mpi("none")
    else:
        mpi = find_mpi(wanted, needs_mpi, os.environ, mpirun)
    deployment = LaunchOptions(
        model_repository=model_repo.absolute(),
        world_size=world_size,
        log_verbose=max(verbose - 1, 3 if log else 0),
        log_dir=log_dir.absolute() if log_dir else None,
        extra_args=triton_args,
        engine_models=tuple(engine_models.split(",")),
        mpi=mpi,
        mpi_args=mpi_args,
        hosts=on_hosts,
        leader_host=preflight.slurm_leader(os.environ) if mpi.flavour == "slurm" else "",
        master_port=master_port or preflight.free_port(),
        root=os.geteuid() == 0,
        orchestrator=orchestrator,
        gpus=len(host_gpus(os.environ)) if orchestrator else 0,
        wrapper=("trtllm-llmapi-launch",) if trtllm_llmapi_launch else (),
        **others,  # the fields with an option of the same name
    )
    launch_plan = build_command(deployment, find_server(triton_server))
    front_end = FrontEnd(openai_port, deployment, launch_plan) if openai_port else None
    if dry_run:
        click.echo(launch_plan.text() + (front_end.text() if front_end else ""))
        return
    launch(
        deployment,
        launch_plan,
        front_end,
        ready_timeout=ready_timeout,
        force=force,
        verbose=bool(verbose),
        log_file=log_file,
        ready_file=ready_file,
    )
