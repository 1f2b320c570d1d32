"""LLM, and the result of its generate_async."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorrt_llm._executor import Executor
from tensorrt_llm.executor.result import GenerationResult
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs
from tensorrt_llm.sampling_params import SamplingParams


class RequestOutput(GenerationResult):
    pass


class LLM:
    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._executor: Executor | None = None
        self.mpi_session = kwargs.pop("_mpi_session", None)
        kwargs.pop("backend", None)
        for key in kwargs:
            if key not in TorchLlmArgs.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        self.args = TorchLlmArgs(
            model=str(model),
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        if self.args.guided_decoding_backend is not None and skip_tokenizer_init:
            raise ValueError("guided decoding needs the tokenizer")
        self.tokenizer = None if skip_tokenizer_init else object()
        self._executor = Executor(self.args, self.mpi_session)

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
    ) -> RequestOutput:
        if self._executor is None or self._executor.is_shutdown():
            raise RuntimeError("LLM is shutting down")
        params = sampling_params or SamplingParams()
        if not isinstance(params, SamplingParams):
            raise TypeError(
                "The sampling_params must be type SamplingParams or None, but got "
                f"{type(sampling_params)}"
            )
        if params.end_id is None:
            raise ValueError(
                "tokenizer is required to reset end_id if it is None, or you can explicitly "
                "specify the end_id for sampling_params"
            )
        if isinstance(inputs, dict):
            inputs = inputs["prompt_token_ids"]
        if not isinstance(inputs, list) or not isinstance(inputs[0], int):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        most = self.args.max_num_tokens
        if most and not self.args.enable_chunked_prefill and len(inputs) > most:
            raise ValueError(
                f"The sum of prompt length ({len(inputs)}), query length (0) should not exceed "
                f"max_num_tokens ({most})"
            )
        params.return_perf_metrics = params.return_perf_metrics or self.args.return_perf_metrics
        result = RequestOutput(self._executor.next_id(), inputs, params, self._executor)
        self._executor.submit(result, params, lora_request, streaming)
        return result

    def shutdown(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
        if self.mpi_session is not None:
            self.mpi_session.shutdown()
            self.mpi_session = None
