"""Ranks that a real Slurm starts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi


def run(argv: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        argv, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_srun_starts_two_ranks_with_pmix(slurm: dict[str, str]) -> None:
    report = 'echo "$PMIX_RANK of $SLURM_STEP_NUM_TASKS, $SLURM_LOCALID here"'
    out = run(["srun", "--mpi=pmix", "-n", "2", "--overcommit", "sh", "-c", report], slurm)
    assert sorted(out.splitlines()) == ["0 of 2, 0 here", "1 of 2, 1 here"]


def test_a_batch_job_starts_ranks(slurm: dict[str, str], tmp_path: Path) -> None:
    """As a batch script with launch_server does: srun inside the allocation."""
    step = "srun --mpi=pmix --overlap --overcommit -n 2 sh -c 'echo $SLURM_PROCID'"
    log = tmp_path / "job.log"
    run(["sbatch", "-n", "2", f"--output={log}", f"--wrap={step}"], slurm)
    deadline = time.monotonic() + 30  # sbatch --wait looks every ten seconds only
    while run(["squeue", "-h"], slurm):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert sorted(log.read_text().split()) == ["0", "1"]
