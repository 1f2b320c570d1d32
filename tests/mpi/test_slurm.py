"""Ranks started by a real Slurm."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Server, free_ports, generate_replay
from launching import starting
from two_hosts import TwoHosts

pytestmark = pytest.mark.mpi

ROOT = Path(__file__).parents[2]


def run(argv: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        argv, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_job(arguments: list[str], environ: dict[str, str]) -> None:
    """Run sbatch and wait until the job has ended; sbatch --wait polls only every ten seconds."""
    run(["sbatch", *arguments], environ)
    deadline = time.monotonic() + 60
    while run(["squeue", "-h"], environ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_srun_starts_two_ranks_with_pmix(slurm: dict[str, str]) -> None:
    report = 'echo "$PMIX_RANK of $SLURM_STEP_NUM_TASKS, $SLURM_LOCALID here"'
    out = run(["srun", "--mpi=pmix", "-n", "2", "--overcommit", "sh", "-c", report], slurm)
    assert sorted(out.splitlines()) == ["0 of 2, 0 here", "1 of 2, 1 here"]


def test_srun_starts_a_rank_on_each_of_two_nodes(
    hosts: TwoHosts, two_nodes: dict[str, str]
) -> None:
    report = 'echo "$PMIX_RANK $(hostname) $(hostname -I)"'
    srun = ["srun", "--mpi=pmix", "-N", "2", "-n", "2", "sh", "-c", report]
    out = run(hosts.argv(0, *srun), two_nodes)
    expected = zip(("0", "1"), hosts.namespaces, hosts.addresses, strict=True)
    assert sorted(tuple(line.split()) for line in out.splitlines()) == list(expected)


def test_the_batch_script_starts_its_ranks(slurm: dict[str, str], tmp_path: Path) -> None:
    """deploy/slurm.sbatch unchanged, on one node without GPUs; a script replaces launch_server."""
    log = tmp_path / "job.log"
    stand_in = tmp_path / "launch_server"
    stand_in.write_text(
        '#!/bin/sh\necho "$@"\nexec srun --mpi=pmix --overlap --overcommit -n 2 '
        "sh -c 'echo rank $SLURM_PROCID'\n"
    )
    stand_in.chmod(0o755)
    environ = {**slurm, "MODEL_REPO": "/models", "PATH": f"{tmp_path}:{slurm['PATH']}"}
    node = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0"]
    run_job(
        [*node, f"--output={log}", f"--chdir={tmp_path}", str(ROOT / "deploy/slurm.sbatch")],
        environ,
    )
    lines = log.read_text().splitlines()
    assert sorted(lines[1:]) == ["rank 0", "rank 1"]
    assert "--model-repo /models" in lines[0]
    assert "--world-size 2 --mpi slurm" in lines[0]


def test_the_command_of_a_dry_run_serves(
    slurm: dict[str, str], bpe_dir: Path, tmp_path: Path
) -> None:
    """The printed command, pasted into a shell."""
    repository = generate_replay(tmp_path / "repository", bpe_dir)
    http, grpc, metrics = free_ports(3)
    line = run(
        [
            *(str(Path(sys.executable).with_name("launch_server")), "--dry-run"),
            *("--model-repo", str(repository), "--world-size", "2", "--mpi", "slurm"),
            *("--oversubscribe", "--http-port", str(http), "--grpc-port", str(grpc)),
            *("--metrics-port", str(metrics)),
        ],
        slurm,
    )
    (prefix,) = re.findall(r"--shm-prefix=([\w-]+)", line)
    assert not list(Path("/dev/shm").glob(f"{prefix}*")), "a dry run starts nothing"
    log = tmp_path / "ranks.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", line], env=slurm, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        ready = f"http://127.0.0.1:{http}/v2/health/ready"
        wait_until(lambda: answers(ready) or process.poll() is not None, log)
        server = Server(process, f"http://127.0.0.1:{http}", "", "", log)
        assert server.ask({"text_input": "Good day!", "max_tokens": 64})["text_output"]
        assert '"rank": 1, "event": "started"' in log.read_text()
        # The first signal drains; the second one ends the ranks that wait for their engines.
        while process.poll() is None:
            subprocess.run(["scancel", "--signal=USR1", "--user=root"], env=slurm, check=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
    finally:
        subprocess.run(["scancel", "--user=root"], env=slurm, check=True)
        process.wait(timeout=30)
    wait_until(lambda: not list(Path("/dev/shm").glob(f"{prefix}*")), log)


def test_a_killed_launcher_ends_its_step(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    with starting(tmp_path) as start:
        launch = start("--world-size", "2", "--mpi", "slurm", "--oversubscribe").until_ready()
        launch.process.kill()
        assert launch.ended() == -signal.SIGKILL


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.1)


def test_the_batch_script_serves_from_two_nodes(
    hosts: TwoHosts, two_nodes: dict[str, str], bpe_dir: Path, tmp_path: Path
) -> None:
    """deploy/slurm.sbatch unchanged, with one task per node and without GPUs."""
    repository = generate_replay(tmp_path / "repository", bpe_dir)
    log = tmp_path / "job.log"
    path = f"{Path(sys.executable).parent}:{two_nodes['PATH']}"
    environ = {**two_nodes, "MODEL_REPO": str(repository), "PATH": path}
    node = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", f"--chdir={tmp_path}"]
    batch = ["sbatch", "--parsable", *node, f"--output={log}", f"{ROOT}/deploy/slurm.sbatch"]
    job = run(hosts.argv(0, *batch), environ).strip()
    with hosts.inside(0):
        address = f"http://{hosts.addresses[0]}:8000"

        def settled() -> bool:
            return answers(f"{address}/v2/health/ready") or not run(
                hosts.argv(0, "squeue", "-h"), environ
            )

        wait_until(settled, log)
        request = urllib.request.Request(
            f"{address}/v2/models/ensemble/generate",
            data=b'{"text_input": "Good day!", "max_tokens": 64}',
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["text_output"]
    logs = {path.name for path in (tmp_path / f"trt-tokenizers-{job}").iterdir()}
    assert logs == {"rank0.log", "rank1.log"}
    run(hosts.argv(0, "scancel", "--batch", "--signal=TERM", job), environ)
    wait_until(lambda: not run(hosts.argv(0, "squeue", "-h"), environ), log)
    ended = run(hosts.argv(0, "scontrol", "show", "job", job), environ)
    assert "JobState=COMPLETED" in ended, log.read_text()[-4000:]
