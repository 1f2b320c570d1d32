from tensorrt_llm.executor import CompletionOutput, LoRARequest, RequestError
from tensorrt_llm.llmapi.llm import LLM, RequestOutput
from tensorrt_llm.llmapi.llm_args import KvCacheConfig, LlmArgs, TorchLlmArgs
from tensorrt_llm.llmapi.mpi_session import MpiCommSession
from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "GuidedDecodingParams",
    "KvCacheConfig",
    "LlmArgs",
    "LoRARequest",
    "MpiCommSession",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "TorchLlmArgs",
]
