"""Differences between TensorRT-LLM 1.0 to 1.3 in the LLM API, as far as the engine uses it.

By the public sources of these versions:

* ``LoRARequest``: all versions export it from ``tensorrt_llm.executor``, only later ones from
  ``tensorrt_llm.llmapi``.
* ``MpiCommSession`` on COMM_WORLD: in early versions shutdown() ends the executors of the other
  ranks. Later versions keep them for the next session (``MPINodeState._global_comm_executor``), so
  the other ranks would wait until this process ends.
* ``logprobs`` of an answer: numbers, or a mapping from ids to ``Logprob`` for each token.
* Bad words of several ids: the public field takes strings, which LLM()'s tokenizer splits. All
  versions store the ids in ``_bad_word_ids``.
* A dead executor: ``LLM._executor`` is None, its ``is_shutdown()`` is true, or its
  ``_error_queue`` holds the error of a worker or thread. The LLM API raises that error only at the
  next submit; until then open requests wait and get nothing.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from trt_tokenizers.engines.arguments import importing
from trt_tokenizers.engines.sampling_params import guide_refusal
from trt_tokenizers.errors import EngineError, one_line
from trt_tokenizers.hf_config import parse_json

WHERE = "engine 'llmapi'"
_CONTAINER = "run it in NVIDIA's container tritonserver:…-trtllm-python-py3, with a GPU"

#: Arguments of LLM() in any 1.x, for checks where TensorRT-LLM is not installed.
LLM_ARGUMENTS = frozenset({
    "model", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code",
    "tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size",
    "moe_tensor_parallel_size", "moe_expert_parallel_size", "moe_cluster_parallel_size",
    "dtype", "revision", "tokenizer_revision", "gpus_per_node", "enable_attention_dp", "cp_config",
    "enable_lora", "lora_config", "peft_cache_config", "batched_logits_processor",
    "guided_decoding_backend", "speculative_config", "max_batch_size", "max_input_len",
    "max_seq_len", "max_beam_width", "max_num_tokens", "load_format", "enable_chunked_prefill",
    "kv_cache_config", "stream_interval", "scheduler_config", "cache_transceiver_config",
    "batching_type", "normalize_log_probs", "gather_generation_logits", "num_postprocess_workers",
    "postprocess_tokenizer_dir", "reasoning_parser", "garbage_collection_gen0_threshold",
    "backend", "build_config", "cuda_graph_config", "checkpoint_loader", "checkpoint_format",
    "disable_overlap_scheduler", "moe_config", "attn_backend", "enable_mixed_sampler",
    "enable_trtllm_sampler", "sampler_type", "kv_cache_dtype", "enable_iter_perf_stats",
    "enable_iter_req_stats", "print_iter_log", "torch_compile_config", "enable_autotuner",
    "enable_layerwise_nvtx_marker", "enable_min_latency", "force_dynamic_quantization",
    "allreduce_strategy", "iter_stats_max_iterations", "request_stats_max_iterations",
    "return_perf_metrics", "orchestrator_type", "quant_config", "attention_dp_config",
    "sparse_attention_config", "generation_config",
})  # fmt: skip

#: Variables that mpirun or srun sets for one rank. A process that starts its own ranks must not
#: pass them on. Variables that configure an MPI (OMPI_MCA_…, PMIX_MCA_…) stay.
_JOB = re.compile(
    r"OMPI_(COMM_WORLD_|UNIVERSE_|FIRST_RANKS|APP_CTX_|MCA_orte_)|ORTE_|PMIX_(?!MCA_)|PMI_"
    r"|SLURM_(?!CONF$)"
)


class Api:
    """The installed TensorRT-LLM: the version and the classes that the engine uses."""

    def __init__(self) -> None:
        """Import TensorRT-LLM.

        Raises:
            EngineError: it is missing, too old, or does not import.
        """
        with importing(WHERE, "TensorRT-LLM 1.x", _CONTAINER):
            package = importlib.import_module("tensorrt_llm")
            self.version = str(package.__version__)
            if int(self.version.split(".")[0]) < 1:
                raise EngineError(
                    f"{WHERE} needs TensorRT-LLM 1.0 or newer, and {self.version} is installed; "
                    "use --engine tensorrtllm or a newer container"
                )
            self.llm = package.LLM
            self.sampling_params = package.SamplingParams
            llmapi = importlib.import_module("tensorrt_llm.llmapi")
            self.guided_decoding_params = llmapi.GuidedDecodingParams
            executor = importlib.import_module("tensorrt_llm.executor")
            self.client_errors: tuple[type[Exception], ...] = (ValueError, executor.RequestError)
            self.lora_request = executor.LoRARequest

    def llm_arguments(self, backend: str | None) -> frozenset[str]:
        """Names of the arguments of LLM(); `LLM_ARGUMENTS` if the installed version has no list."""
        args = importlib.import_module("tensorrt_llm.llmapi.llm_args")
        wanted = "TrtLlmArgs" if backend == "tensorrt" else "TorchLlmArgs"
        fields = getattr(getattr(args, wanted, None), "model_fields", None)
        return frozenset(fields) | {"backend"} if fields else LLM_ARGUMENTS

    def typed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Convert nested mappings of *arguments* to TensorRT-LLM's classes, by its own helper."""
        utilities = importlib.import_module("tensorrt_llm.llmapi.llm_utils")
        typed: dict[str, Any] = utilities.update_llm_args_with_extra_dict({}, dict(arguments))
        return typed

    def comm_session(self, size: int) -> Any:
        """The session of the leader of *size* MPI ranks."""
        from mpi4py.MPI import COMM_WORLD

        llmapi = importlib.import_module("tensorrt_llm.llmapi")
        return llmapi.MpiCommSession(comm=COMM_WORLD, n_workers=size)


def release_ranks() -> None:
    """Let the other ranks leave their executors; called after the leader's last session."""
    session = importlib.import_module("tensorrt_llm.llmapi.mpi_session")
    state = getattr(session, "MPINodeState", None)
    executor = getattr(state, "_global_comm_executor", None)
    if executor is not None:
        state._global_comm_executor = state._global_mpi_pool = None  # type: ignore[union-attr]
        executor.__exit__(None, None, None)


def leave_mpi() -> None:
    """Finalize MPI in this rank. mpi4py would do it at exit, but Triton's stub (24.10) crashes
    before that, and then mpirun counts the rank as failed."""
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def check_guide(kind: str, guide: str) -> None:
    """Parse a guide as XGrammar will do inside TensorRT-LLM, where an error fails a whole batch.

    Args:
        kind: a key of `sampling_params.GUIDES`.

    Raises:
        RequestError: it does not parse.
    """
    grammar = importlib.import_module("xgrammar").Grammar  # TensorRT-LLM requires it
    try:
        if kind == "json_schema":
            grammar.from_json_schema(guide)
        elif kind == "regex":
            grammar.from_regex(guide)
        elif kind == "ebnf_grammar":
            grammar.from_ebnf(guide)
        elif kind == "structural_tag" and "structures" not in parse_json(guide):
            grammar.from_structural_tag(guide)
    except (RuntimeError, ValueError) as error:
        raise guide_refusal(kind, str(error)) from error


def set_bad_words(params: Any, words: Sequence[Sequence[int]]) -> None:
    """Set bad words of several ids each, without LLM()'s tokenizer, which may be missing."""
    params.bad = ["" for _ in words]
    params._bad_word_ids = [list(word) for word in words]


def executor_failure(llm: Any) -> str | None:
    """The error or state that ended the executor of *llm*; None while it runs."""
    executor = getattr(llm, "_executor", None)
    errors = getattr(executor, "_error_queue", None)
    if errors is not None and errors.queue:
        return one_line(errors.queue[0])
    if executor is None or getattr(executor, "is_shutdown", bool)():
        return "its executor has shut down"
    return None


def log_probs(entries: Iterable[Any], token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-probability of each token of *token_ids*, from TensorRT-LLM's ``logprobs``.

    Raises:
        EngineError: the entry of a token does not contain it.
    """
    values = []
    for entry, token in zip(entries, token_ids, strict=True):
        if isinstance(entry, Mapping):
            if token not in entry:
                raise EngineError(
                    f"{WHERE}: TensorRT-LLM returned no log-probability of the generated token "
                    f"{token}; leave return_log_probs out"
                )
            entry = entry[token].logprob  # noqa: PLW2901
        values.append(float(entry))
    return tuple(values)


def clear_job(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables of mpirun or srun, before LLM() starts its own ranks."""
    for name in [name for name in environ if _JOB.match(name)]:
        del environ[name]
