"""The command launch_server."""

from __future__ import annotations

import os
from pathlib import Path

import click

from trt_tokenizers.cli.common import SETTINGS, Command
from trt_tokenizers.errors import LaunchError, SettingsError
from trt_tokenizers.launcher.mpi import FLAVOURS, Mpi, find_mpi, parse_hosts, read_hostfile

_PORT = click.IntRange(1, 65535)


@click.command("launch_server", cls=Command, context_settings=SETTINGS)
@click.option(
    "--model-repo",
    required=True,
    type=click.Path(path_type=Path),
    help="The model repository.",
)
@click.option(
    "--world-size",
    default=1,
    type=click.IntRange(1),
    help="MPI ranks. Rank 0 loads all models and serves, the others load the engine only.",
)
@click.option("--host", default="127.0.0.1", help="Address to bind to; 0.0.0.0 for all.")
@click.option("--http-port", default=8000, type=_PORT)
@click.option("--grpc-port", default=8001, type=_PORT)
@click.option("--metrics-port", default=8002, type=_PORT)
@click.option(
    "--tensorrt-llm-model-name",
    "engine_models",
    default="tensorrt_llm",
    metavar="NAME[,NAME]...",
    help="The engine model(s): what ranks other than 0 load.",
)
@click.option(
    "--mpi",
    "flavour",
    type=click.Choice(FLAVOURS),
    help="What starts the ranks.  [default: none for one rank; inside a Slurm allocation slurm; "
    "else what mpirun --version says]",
)
@click.option("--no-mpi", is_flag=True, help="The same as --mpi none.")
@click.option("--mpirun", metavar="PATH", help="The mpirun (or srun) to use.  [default: on PATH]")
@click.option(
    "--mpi-arg", "mpi_args", multiple=True, help="Handed to mpirun or srun; may be repeated."
)
@click.option("--hosts", metavar="HOST:RANKS,...", help="Hosts of the ranks, rank 0's first.")
@click.option(
    "--hostfile",
    type=click.Path(path_type=Path),
    help="The same, one «host slots=n» or «host:n» a line.",
)
@click.option("--oversubscribe", is_flag=True, help="More ranks on a host than its slots or cores.")
@click.option(
    "--master-port",
    type=_PORT,
    help="MASTER_PORT of the ranks, where torch.distributed meets.  [default: a free one]",
)
@click.option(
    "--ready-timeout",
    default=1800,
    type=click.FloatRange(0),
    help="Seconds for all models to load; 0 waits for ever.",
)
@click.option(
    "--exit-timeout",
    "--drain-timeout",
    "exit_timeout",
    default=20,
    type=click.IntRange(0),
    help="Seconds for running requests when a stop is asked for, and as many again for idle "
    "connections and unloading; 5 more, and all is killed.",
)
@click.option(
    "--triton-server",
    "--tritonserver",
    "triton_server",
    envvar="TRITONSERVER",
    show_envvar=True,
    help="The tritonserver to run.  [default: /opt/tritonserver, PATH or the wheel]",
)
@click.option("--log-file", type=click.Path(path_type=Path), help="Append all ranks' output to it.")
@click.option(
    "--log-dir",
    type=click.Path(path_type=Path),
    help="Append each rank's output to rankN.log in it, on its own host.",
)
@click.option(
    "--log", is_flag=True, help="Triton's --log-verbose=3, into --log-file (triton_log.txt)."
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Written (JSON of the addresses) when ready, removed when a stop begins.",
)
@click.option(
    "--auto-complete",
    is_flag=True,
    help="Let Triton complete model configurations; it then loads each Python model twice.",
)
@click.option(
    "--multi-model",
    is_flag=True,
    help="Several TensorRT-LLM engines in the repository: its orchestrator starts their ranks.",
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
    help="Rank 0's CUDA memory pool on GPU 0; 0 is Triton's default.",
)
@click.option(
    "--trtllm-llmapi-launch",
    is_flag=True,
    help="Start each rank by trtllm-llmapi-launch, as TensorRT-LLM's LLM API needs it.",
)
@click.option(
    "--force", "-f", is_flag=True, help="Start although another server runs on the repository."
)
@click.option("--dry-run", is_flag=True, help="Print the command to start, and start nothing.")
@click.option("--verbose", "-v", count=True, help="Triton's --log-verbose; may be repeated.")
@click.argument("triton_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRITON_ARGS]...")
def launch_server(
    *,
    model_repo: Path,
    world_size: int,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    engine_models: str,
    flavour: str | None,
    no_mpi: bool,
    mpirun: str | None,
    mpi_args: tuple[str, ...],
    hosts: str | None,
    hostfile: Path | None,
    oversubscribe: bool,
    master_port: int | None,
    ready_timeout: float,
    exit_timeout: int,
    triton_server: str | None,
    log_file: Path | None,
    log_dir: Path | None,
    log: bool,
    ready_file: Path | None,
    auto_complete: bool,
    multi_model: bool,
    disable_spawn_processes: bool,
    gpu0_pool: int,
    trtllm_llmapi_launch: bool,
    force: bool,
    dry_run: bool,
    verbose: int,
    triton_args: tuple[str, ...],
) -> None:
    """Start Triton on a model repository, wait until it is ready, and watch it until it ends.

    Ctrl-C or SIGTERM lets running requests finish; a second one ends at once. If any rank dies, all
    end. Nothing is left behind, also if the launcher itself is killed. Under systemd (Type=notify)
    it tells when it is ready. Options may be written with _ for -.

    \b
    Examples:
      launch_server --model-repo models --http-port 8000 -- --log-format=ISO8601
      launch_server --model-repo models --world-size 2
      launch_server --model-repo models --world-size 4 --hosts gpu1:2,gpu2:2 --host 0.0.0.0

    \b
    Exit codes:
      0      stopped as asked, running requests finished
      1      it did not start, did not get ready, or a Python model's process died
      2      wrong options
      n      exit code of the tritonserver that failed first
      128+n  it, or mpirun, died of signal n (137: also if all had to be killed)
    """
    from trt_tokenizers.launcher.command import LaunchOptions, build_command
    from trt_tokenizers.launcher.lock import locked
    from trt_tokenizers.launcher.preflight import free_port, problems, ranks_here, slurm_leader
    from trt_tokenizers.launcher.supervisor import supervise
    from trt_tokenizers.launcher.tritonserver import find_server
    from trt_tokenizers.memory.gpus import host_gpus
    from trt_tokenizers.mpi_environment import read_rank
    from trt_tokenizers.repository.check_engines import engine_problems, gpu_problems

    if (mine := read_rank(os.environ)).size > 1:
        raise SettingsError(
            f"launch_server itself was started as {mine.size} ranks ({mine.source}); "
            "start it once, and it starts the ranks"
        )
    if hosts and hostfile:
        raise SettingsError("--hosts and --hostfile say the same; give one")
    if no_mpi and flavour not in (None, "none"):
        raise SettingsError(f"--no-mpi and --mpi {flavour} contradict each other; give one")
    if log_file and log_dir:
        raise SettingsError("--log-file and --log-dir both take the output; give one")
    if log and not log_dir:
        log_file = log_file or Path("triton_log.txt")
    orchestrator = ""
    if multi_model:
        orchestrator = "ranks" if disable_spawn_processes else "spawn"
    elif disable_spawn_processes:
        click.echo("launch: --disable-spawn-processes does nothing without --multi-model", err=True)
    on_hosts = parse_hosts(hosts) if hosts else read_hostfile(hostfile) if hostfile else ()
    # An orchestrator starts its ranks through the MPI that it was started by.
    needs_mpi = max(world_size, 2 if orchestrator or on_hosts or mpi_args else 1)
    wanted = "none" if no_mpi else flavour
    if wanted == "none" and world_size == 1:
        mpi = Mpi("none")
    else:
        mpi = find_mpi(wanted, needs_mpi, os.environ, mpirun)
    deployment = LaunchOptions(
        model_repository=model_repo.absolute(),
        world_size=world_size,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        exit_timeout=exit_timeout,
        log_verbose=max(verbose, 3 if log else 0),
        log_dir=log_dir.absolute() if log_dir else None,
        auto_complete=auto_complete,
        extra_args=triton_args,
        engine_models=tuple(engine_models.split(",")),
        mpi=mpi,
        mpi_args=mpi_args,
        hosts=on_hosts,
        leader_host=slurm_leader(os.environ) if mpi.flavour == "slurm" else "",
        master_port=master_port or free_port(),
        oversubscribe=oversubscribe,
        root=os.geteuid() == 0,
        orchestrator=orchestrator,
        gpus=len(host_gpus(os.environ)) if orchestrator else 0,
        gpu0_pool=gpu0_pool,
        wrapper=("trtllm-llmapi-launch",) if trtllm_llmapi_launch else (),
    )
    launch_plan = build_command(deployment, find_server(triton_server))
    if dry_run:
        click.echo(launch_plan.text())
        return
    with locked(deployment.model_repository, launch_plan.shm_prefix, force=force):
        found = list(problems(deployment))
        found += engine_problems(deployment.model_repository, world_size, multi_model=multi_model)
        found += gpu_problems(
            deployment.model_repository,
            world_size,
            ranks_here(deployment),
            os.environ,
            multi_model=multi_model,
        )
        if found:
            raise LaunchError("\n".join(found))
        supervise(
            launch_plan,
            ready_timeout=ready_timeout,
            say=lambda line: click.echo(f"launch: {line}", err=True),
            log_file=log_file,
            ready_file=ready_file,
        )
