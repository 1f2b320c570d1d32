"""The table of inputs: every input of the ensemble, once, with the tensors that carry it.

Preprocessing and the engine model parse their tensors by this table, `engines.base.validate` checks
the ranges, the engines take `supported` from it, and ``scripts/write_inputs.py`` writes the tensors
of model_repo_skeleton and the table of docs/ensemble.md.

A new sampling parameter needs an entry here, a field of `engines.base.GenerationRequest` and a
processor in engines/transformers/sampling.py. The other engines pass it on if `in_sampling_params`
is true; otherwise their sampling.py converts it. Then run ``scripts/write_inputs.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trt_tokenizers.errors import RequestError
from trt_tokenizers.streams.stream_key import MAX_SEQUENCES


@dataclass(frozen=True)
class Range:
    """Valid values: from *low* to *high*, both included; without *low* if *above* is true."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low:g}"
        if self.above:
            return f"above {self.low:g} and at most {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


#: The engines of this package.
_ENGINES = frozenset({"transformers", "llmapi", "vllm"})
#: The engines with adapters and performance figures.
_PRODUCTION = frozenset({"llmapi", "vllm"})
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Input:
    """One input of the ensemble.

    Attributes:
        name: the client's name.
        type: Triton's type without ``TYPE_``.
        to_preprocessing: the input of the model preprocessing that carries it; empty for none.
        to_engine: the input of the engine that carries it unchanged; empty for none.
        meaning: for users, in Markdown.
        dims: shape of one row.
        default: used if the client does not send the input; None if there is no fixed one.
        range: valid values; None for all.
        not_set: a value that counts as not sent, as in TensorRT-LLM.
        only: the one value that Python engines accept.
        samples: whether it makes the engine sample; without any such input the engine is greedy.
        in_sampling_params: whether the SamplingParams of TensorRT-LLM and of vLLM have the field
            with the same name, meaning and default.
        engines: the engines of this package that serve it; none for one that only TensorRT-LLM's
            C++ backend serves.
        field: its field in `TextRequest` and `GenerationRequest`; empty for *name*.
        skeleton: false if only some of TensorRT-LLM's ensembles have it.
    """

    name: str
    type: str
    to_preprocessing: str
    to_engine: str
    meaning: str
    dims: tuple[int, ...] = (1,)
    default: Any = None
    range: Range | None = None
    not_set: Any = None
    only: Any = None
    samples: bool = False
    in_sampling_params: bool = False
    engines: frozenset[str] = _ENGINES
    field: str = ""
    skeleton: bool = True

    @property
    def target(self) -> str:
        """The field that a parser fills."""
        return self.field or self.name

    def check(self, value: float) -> None:
        """Refuse a *value* outside the range; NaN always is.

        Raises:
            RequestError: names the input, the value and the range.
        """
        if self.range is not None and value not in self.range:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise RequestError(f"{self.name} is {shown}; it must be {self.range}")


#: In the order of the documentation. An older name of an input follows the newer one.
INPUTS = (
    Input("text_input", "STRING", "QUERY", "", "the prompt, unchanged; the tokenizer adds BOS if "
          "the model expects one. Its [length is limited](tokenizers.md)"),
    Input("messages", "STRING", "MESSAGES", "", "instead of `text_input`: a JSON list of "
          '`{"role": …, "content": …}` as text, rendered by the chat template. Roles: system, '
          "developer, user, assistant, tool"),
    Input("tools", "STRING", "TOOLS", "", "with `messages`: a JSON list of tools, "
          '`{"type": "function", "function": {"name": …}}`, if the template supports tools'),
    Input("chat_template_kwargs", "STRING", "CHAT_TEMPLATE_KWARGS", "", "with `messages`: a JSON "
          "object of [template variables](#template-variables)"),
    Input("max_tokens", "INT32", "REQUEST_OUTPUT_LEN", "", "maximum generated tokens; default: "
          "512, or as many as fit", range=Range(1)),
    Input("stream", "BOOL", "STREAM", "streaming", "send tokens as they are generated; use "
          "`/generate_stream`", default=False),
    Input("stop_words", "STRING", "STOP_WORDS_DICT", "", "the answer ends just before the first of "
          "these [strings](#word-lists), however they are split into tokens", (-1,)),
    Input("include_stop_str_in_output", "BOOL", "INCLUDE_STOP_STR_IN_OUTPUT", "", "end the answer "
          "after the stop string instead", default=False),
    Input("bad_words", "STRING", "BAD_WORDS_DICT", "", "[words](#word-lists) whose token ids are "
          "banned", (-1,)),
    Input("embedding_bias_words", "STRING", "EMBEDDING_BIAS_WORDS", "", "[words](#word-lists) "
          "whose tokens get a bias on their logits at every step", (-1,)),
    Input("embedding_bias_weights", "FP32", "EMBEDDING_BIAS_WEIGHTS", "", "one bias per word, "
          "finite", (-1,)),
    Input("logit_bias_ids", "INT32", "LOGIT_BIAS_IDS", "", "token ids whose logits get a bias at "
          "every step", (-1,)),
    Input("logit_bias_values", "FP32", "LOGIT_BIAS_VALUES", "", "one bias per id, finite", (-1,)),
    Input("end_id", "INT32", "END_ID", "", "ends the answer, beside the model's own EOS ids; -1: "
          "no id ends it"),
    Input("pad_id", "INT32", "PAD_ID", "", "pads the rows of a batch"),
    Input("temperature", "FP32", "", "temperature", "divides the logits; 0 is greedy. "
          "[Sampling](#sampling) needs this or one of the next three",
          default=1.0, range=Range(0, 100), samples=True, in_sampling_params=True),
    Input("top_k", "INT32", "", "runtime_top_k", "sample from the k most probable tokens; 0: not "
          "set", default=0, range=Range(0), not_set=0, samples=True, in_sampling_params=True),
    Input("top_p", "FP32", "", "runtime_top_p", "sample from the most probable tokens that "
          "together reach this probability; 0: not set",
          default=1.0, range=Range(0, 1, above=True), not_set=0.0, samples=True,
          in_sampling_params=True),
    Input("min_p", "FP32", "", "min_p", "sample from tokens at least this fraction as probable as "
          "the most probable one; 0: not set",
          default=0.0, range=Range(0, 1), not_set=0.0, samples=True, in_sampling_params=True),
    Input("repetition_penalty", "FP32", "", "repetition_penalty", "penalizes tokens of prompt and "
          "answer; 1: no penalty", default=1.0, range=Range(0, 100, above=True),
          in_sampling_params=True),
    Input("presence_penalty", "FP32", "", "presence_penalty", "subtracted from the logits of "
          "tokens in the answer", default=0.0, range=Range(-100, 100),
          in_sampling_params=True),
    Input("frequency_penalty", "FP32", "", "frequency_penalty", "subtracted from the logits of a "
          "token for each time it is in the answer", default=0.0, range=Range(-100, 100),
          in_sampling_params=True),
    Input("min_tokens", "INT32", "MIN_TOKENS", "min_tokens", "minimum number of generated tokens, "
          "at most `max_tokens`", default=1, range=Range(0)),
    Input("min_length", "INT32", "MIN_LENGTH", "min_length", "older name of `min_tokens`",
          field="min_tokens"),
    Input("seed", "UINT64", "", "seed", "same seed, prompt and parameters: same text, alone or in "
          "a batch; drawn if not sent"),
    Input("random_seed", "UINT64", "", "random_seed", "older name of `seed`", field="seed"),
    Input("return_log_probs", "BOOL", "", "return_log_probs", "add `output_log_probs` and "
          "`cum_log_probs`", default=False),
    Input("exclude_input_in_output", "BOOL", "EXCLUDE_INPUT_IN_OUTPUT",
          "exclude_input_in_output", "without "
          "`stream`, false puts the prompt before the answer; default: the setting of "
          "preprocessing"),
    Input("skip_special_tokens", "BOOL", "SKIP_SPECIAL_TOKENS", "", "false: special tokens stay in "
          "the text; default: the setting of preprocessing"),
    Input("return_added_tokens", "BOOL", "RETURN_ADDED_TOKENS", "", "add the outputs "
          "`added_tokens`, `prompt_end` and, with `return_log_probs`, `output_tokens`",
          default=False),
    Input("return_token_ids", "BOOL", "RETURN_TOKEN_IDS", "", "add the output `token_ids`",
          default=False),
    Input("num_return_sequences", "INT32", "", "num_return_sequences", "with `stream`: number of "
          "answers to the prompt, each as for a separate request, with `seed`, `seed` + 1, … if a "
          "seed is sent; see [below](#several-answers-to-a-prompt)",
          default=1, range=Range(1, MAX_SEQUENCES)),
    Input("beam_width", "INT32", "", "beam_width", "other values are refused", default=1, only=1),
    Input("length_penalty", "FP32", "", "len_penalty", "accepted without effect, as without beams "
          "in TensorRT-LLM"),
    Input("return_context_logits", "BOOL", "", "return_context_logits", "true is refused",
          default=False, only=False),
    Input("return_generation_logits", "BOOL", "", "return_generation_logits", "true is refused",
          default=False, only=False),
    Input("return_kv_cache_reuse_stats", "BOOL", "", "return_kv_cache_reuse_stats", "true is "
          "refused; `return_perf_metrics` has these figures", default=False, only=False),
    Input("stop", "BOOL", "", "stop", "true is refused: to stop a request, cancel it",
          default=False, only=False),
    Input("early_stopping", "BOOL", "", "early_stopping", "accepted without effect: for beams"),
    Input("beam_search_diversity_rate", "FP32", "", "beam_search_diversity_rate", "accepted "
          "without effect: for beams"),
    Input("return_num_input_tokens", "BOOL", "", "return_num_input_tokens", "accepted without "
          "effect: the output is always there"),
    Input("return_num_output_tokens", "BOOL", "", "return_num_output_tokens", "accepted without "
          "effect: the output is always there"),
    Input("lora_task_id", "UINT64", "", "lora_task_id", "refused; use `lora_name`",
          engines=_NONE),
    Input("lora_weights", "FP16", "", "lora_weights", "refused; use `lora_name`", (-1, -1),
          engines=_NONE),
    Input("lora_config", "INT32", "", "lora_config", "refused; use `lora_name`", (-1, 3),
          engines=_NONE),
    Input("prompt_embedding_table", "FP16", "", "prompt_embedding_table", "refused", (-1, -1),
          engines=_NONE),
    Input("prompt_vocab_size", "INT32", "", "prompt_vocab_size", "refused", engines=_NONE),
    Input("guided_decoding_guide_type", "STRING", "", "guided_decoding_guide_type",
          "kind of [guide](engines.md#guides): `json`, `json_schema`, `regex`, `ebnf_grammar` or "
          "`structural_tag`"),
    Input("guided_decoding_guide", "STRING", "", "guided_decoding_guide",
          "what the answer must follow"),
    Input("lora_name", "STRING", "", "lora_name", "name of a LoRA adapter; empty: not set",
          not_set="", engines=_PRODUCTION, field="lora"),
    Input("return_perf_metrics", "BOOL", "", "return_perf_metrics", "add the outputs with "
          "[performance figures](llmapi.md#parameters)",
          default=False, not_set=False, engines=_PRODUCTION),
    Input("decoder_text_input", "STRING", "DECODER_QUERY", "", "text from which the decoder starts",
          skeleton=False),
    Input("prompt_table_extra_id", "UINT64", "PROMPT_TABLE_EXTRA_ID", "", "tells equal ids of "
          "different prompt embedding tables apart", skeleton=False),
)  # fmt: skip
BY_NAME = {each.name: each for each in INPUTS}
#: Names of the inputs that make an engine sample.
SAMPLING = frozenset(each.name for each in INPUTS if each.samples)


def default(name: str) -> Any:
    """The default of the input *name*."""
    return BY_NAME[name].default


def supported_by(engine: str) -> frozenset[str]:
    """Names of the inputs that the *engine* of this package serves."""
    return frozenset(each.name for each in INPUTS if engine in each.engines)
