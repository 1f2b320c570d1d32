"""Rank variables, the meeting point, and the sizes a model can be split into."""

from __future__ import annotations

from typing import Any

import pytest

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.hf_config import splittable
from trt_tokenizers.mpi_environment import Rank, meeting_point, read_rank

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}
#: The variables of a script of `sbatch --ntasks 2`: one process, no step of srun.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
#: The variables of the second task of `srun --ntasks 2` in it.
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0)),
        (OPEN_MPI, (3, 4, 1)),
        (HYDRA, (1, 2, 0)),
        (STEP, (1, 2, 1)),
        ({**STEP, "PMIX_RANK": "1"}, (1, 2, 1)),
        # srun --mpi=pmi2: PMI's rank, and Slurm's number on the node
        ({**STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2, 1)),
        (BATCH, (0, 1, 0)),
        ({**BATCH, "SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "2"}, (0, 1, 0)),
        ({**BATCH, "SLURM_STEP_ID": "-5", "SLURM_STEP_NUM_TASKS": "2"}, (0, 1, 0)),
        # mpirun in a job starts its daemons through srun, and its ranks inherit their variables
        ({**STEP, **OPEN_MPI}, (3, 4, 1)),
        ({**STEP, **HYDRA}, (1, 2, 0)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (0, 1, 0)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, (0, 1, 0)),
    ],
    ids=[
        "alone", "open-mpi", "hydra", "srun", "srun-pmix", "srun-pmi2", "batch", "batch-step",
        "batch-step-signed", "open-mpi-in-slurm", "hydra-in-slurm", "torchrun", "one",
    ],
)  # fmt: skip
def test_rank(environ: dict[str, str], expected: tuple[int, int, int]) -> None:
    found = read_rank(environ)
    assert (found.index, found.size, found.local_index) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"OMPI_COMM_WORLD_RANK": "4"},
            "OMPI_COMM_WORLD_RANK is 4 and OMPI_COMM_WORLD_SIZE is 4; unset both",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "x"}, "OMPI_COMM_WORLD_SIZE is 'x'; it must be a whole number"),
        ({"OMPI_COMM_WORLD_RANK": "-1"}, "OMPI_COMM_WORLD_RANK is '-1'; it must be"),
    ],
)
def test_contradicting_variables(change: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_rank({**OPEN_MPI, **change})


def test_the_number_on_the_node_is_required() -> None:
    with pytest.raises(SettingsError, match=r"none of MPI_LOCALRANKID, .*; set MPI_LOCALRANKID"):
        read_rank({"PMI_RANK": "1", "PMI_SIZE": "2"})


def test_meeting_point() -> None:
    environ = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    assert meeting_point(environ, Rank(1, 2)) == ("10.0.0.7", 29500)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "MASTER_ADDR and MASTER_PORT are not set; start it with launch_server --world-size 4"),
        ({"MASTER_ADDR": "a"}, "make this rank 3 of 4, but MASTER_PORT is not set"),
        ({"MASTER_ADDR": "", "MASTER_PORT": "1"}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT is '70000'; it must be a port"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
    ],
)
def test_invalid_meeting_points(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        meeting_point(environ, read_rank(OPEN_MPI))


def heads(attention: Any, key_value: Any = None) -> dict[str, Any]:
    config = {"num_attention_heads": attention, "num_key_value_heads": key_value}
    return {name: value for name, value in config.items() if value is not None}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (heads(9, 3), {1, 3}),  # SmolLM2-135M
        (heads(32, 8), {1, 2, 4, 8}),
        (heads(32), {1, 2, 4, 8, 16, 32}),  # as many key-value heads as others
        (heads(28, 4), {1, 2, 4}),
        (heads(71, 1), {1}),
        (heads([32, 24], [8, 4]), {1, 2, 4}),  # one number for each layer
        ({"text_config": heads(16, 8), "num_attention_heads": 3}, {1, 2, 4, 8}),
        ({"text_config": heads(16), "vision_config": heads(5)}, {1, 2, 4, 8, 16}),
        ({"n_head": 12}, {1, 2, 3, 4, 6, 12}),
        ({"num_attention_heads": 16, "num_kv_heads": 4}, {1, 2, 4}),
        ({**heads(32, 16), "num_global_key_value_heads": 4}, {1, 2, 4}),
    ],
)
def test_splittable(config: dict[str, Any], sizes: set[int]) -> None:
    assert {size for size in range(1, 40) if splittable(config, size) is None} == sizes


def test_the_reason_names_numbers_and_sizes() -> None:
    assert splittable(heads(9, 3), 2) == (
        "the model has num_attention_heads 9 and num_key_value_heads 3, which cannot be split "
        "over a tensor parallel size of 2; sizes that work: 1, 3"
    )


@pytest.mark.parametrize("config", [{}, {"text_config": None}, {"model_type": "mamba"}])
def test_a_config_without_heads_is_accepted(config: dict[str, Any]) -> None:
    assert splittable(config, 7) is None
