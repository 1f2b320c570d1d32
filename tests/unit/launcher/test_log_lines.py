"""Which lines of a log explain a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_tokenizers.launcher.log_lines import LINES, explaining, read_explanation

#: Of a healthy Triton 24.10 on a machine without a GPU.
ROUTINE = """\
W1128 17:49:59.237398 12976 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory pool will not be available: CUDA driver version is insufficient"
I1128 17:49:59.237489 12976 cuda_memory_manager.cc:117] "CUDA memory pool disabled"
E1128 17:49:59.237623 12976 server.cc:241] "CudaDriverHelper has not been initialized."
E1128 17:50:03.202923 12976 ensemble_scheduler.cc:1468] "unable to create stream for ensemble: CUDA driver version is insufficient for CUDA runtime version"
I1128 17:50:03.203025 12976 server.cc:604]
+------------------+------+
| Repository Agent | Path |
[1] | python  | /root/.cache |

Error: Failed to initialize NVML
W1128 17:50:03.203820 12976 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
2026-11-28T17:50:03Z I 12976 metrics.cc:770] "Collecting CPU metrics"
Loading weights:  37%|███▋      | 100/272 [00:01<00:02, 80.1it/s]
(EngineCore pid=7) Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.10s/it]
{"time": 1.5, "path": "/v1/models", "status": 200}
launch: model one is ready (0.1 s)
"""  # noqa: E501


@pytest.mark.parametrize("line", ROUTINE.splitlines())
def test_routine_lines_explain_nothing(line: str) -> None:
    assert explaining(line) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "error: creating server: Internal - failed to load all models",
        "    raise ValueError(x)",
        'W1128 17:50:03.2 7 logs.py:25] "no template; messages are refused"',
    ],
)
def test_other_lines_may_explain_it(line: str) -> None:
    assert explaining(f"{line}\n") == [line]


def test_a_traceback_of_a_python_model_is_unfolded() -> None:
    line = (
        "[2] E1123 15:48:46.6 4253 model_lifecycle.cc:642] \"failed to load 'two' version 1: "
        'Internal: ValueError: no tokenizer\\n\\nAt:\\n  model.py(3): initialize\\n"'
    )
    assert explaining(line) == [
        "[2] E1123 15:48:46.6 4253 model_lifecycle.cc:642] failed to load 'two' version 1: "
        "Internal: ValueError: no tokenizer",
        "At:",
        "  model.py(3): initialize",
    ]


def test_the_explanation_is_the_end_of_this_launchs_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error of the last launch\n")
    before = log.stat().st_size
    log.write_text(f"{log.read_text()}{ROUTINE}" + "".join(f"error {n}\n" for n in range(30)))
    assert read_explanation(log, before) == [f"error {n}" for n in range(30 - LINES, 30)]
    log.write_text("error of the last launch\nerror of this one\n")
    assert read_explanation(log, before) == ["error of this one"]


def test_the_explanation_begins_with_a_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("I1128 an information line of Triton\n" * 4000 + "error\n")
    assert read_explanation(log, 0) == ["error"]
