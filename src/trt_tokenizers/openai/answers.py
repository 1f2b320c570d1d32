"""Responses of the ensemble -> the chunks of an answer, in OpenAI's form."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trt_tokenizers.openai.parsing import (
    AnswerParser,
    Content,
    Event,
    Piece,
    Reasoning,
    ToolArguments,
    ToolCall,
    ToolCallEnd,
)
from trt_tokenizers.openai.requests import AnswerRequest
from trt_tokenizers.openai.tensors import Step

Chunk = dict[str, Any]
#: prompt_end -> parser of one answer.
MakeParser = Callable[[str], AnswerParser]


def pieces(step: Step, *, show: bool = False) -> list[Piece]:
    """The text of *step*, divided at its added tokens; with *show* no piece is hidden."""
    found, at, added = [], 0, step.added
    for start, end, hidden in zip(added[::3], added[1::3], added[2::3], strict=True):
        if at < start:
            found.append(Piece(step.text[at:start]))
        found.append(Piece(step.text[start:end], special=True, hidden=bool(hidden) and not show))
        at = end
    if at < len(step.text):
        found.append(Piece(step.text[at:]))
    return found


@dataclass(slots=True)
class _Answer:
    """One of the answers to a prompt.

    Attributes:
        index: among all answers to the request.
        before: text that goes before the answer's own.
        held: bytes and log-probabilities of tokens whose text has not come yet.
        offset: characters of all tokens so far.
    """

    index: int
    before: str = ""
    finish_reason: str = ""
    completion_tokens: int = 0
    held: list[tuple[bytes, float]] = field(default_factory=list)
    offset: int = 0
    parser: AnswerParser | None = None
    prompt_end: str = ""
    whole_calls: int = 0


class Answers:
    """Makes the chunks of all answers to one request.

    Attributes:
        id: of the answer, in all chunks.
        left: number of answers that have not ended.
    """

    object = ""
    prefix = ""

    def __init__(self, request: AnswerRequest, prompt_ids: list[int] | None = None) -> None:
        """*prompt_ids*: of the prompt, for the first chunk; None: do not send them."""
        self._request = request
        self._prompt_ids = prompt_ids
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self.left = request.n * len(request.prompts)
        self._prompt_tokens = [0] * len(request.prompts)
        self._answers = [_Answer(index) for index in range(self.left)]
        for answer in self._answers if request.echo else ():
            answer.before = request.echo[answer.index // request.n]

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far, as the ensemble counts them."""
        prompt = sum(self._prompt_tokens)
        completion = sum(answer.completion_tokens for answer in self._answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def chunk(self, choices: list[Any], **more: Any) -> Chunk:
        """A chunk with these *choices*."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self._created,
            "model": self._request.model,
            "choices": choices,
            **more,
        }

    def feed(self, prompt: int, step: Step) -> list[Chunk]:
        """The chunks that *step*, an answer to the prompt of this number, makes."""
        answer = self._answers[prompt * self._request.n + step.sequence]
        if answer.finish_reason:  # the engine has not heard of the end yet
            return []
        if step.finish_reason:
            answer.finish_reason = step.finish_reason
            answer.completion_tokens = step.completion_tokens
            self._prompt_tokens[prompt] = step.prompt_tokens
            self.left -= 1
        answer.held += zip(step.tokens, step.log_probs, strict=False)
        chunks = [self.chunk([choice]) for choice in self._choices(answer, step)]
        if chunks and self._prompt_ids is not None:
            chunks[0]["prompt_token_ids"], self._prompt_ids = self._prompt_ids, None
        return chunks

    def _choices(self, answer: _Answer, step: Step) -> list[Any]:
        raise NotImplementedError

    def fold(self, chunks: Sequence[Chunk]) -> Chunk:
        """The whole answer: what a client that joins *chunks* has."""
        wholes: list[Any] = [self._whole(index) for index in range(len(self._answers))]
        more = {}
        for chunk in chunks:
            if "prompt_token_ids" in chunk:
                more["prompt_token_ids"] = chunk["prompt_token_ids"]
            for choice in chunk["choices"]:
                self._join(wholes[choice["index"]], choice)
        return {**self.chunk(wholes), "object": self.object.removesuffix(".chunk"),
                "usage": self.usage, **more}  # fmt: skip

    def _whole(self, index: int) -> Any:
        raise NotImplementedError

    def _join(self, whole: Any, choice: Any) -> None:
        raise NotImplementedError


class Completions(Answers):
    """Answers of /v1/completions."""

    object = "text_completion"
    prefix = "cmpl"

    def _choices(self, answer: _Answer, step: Step) -> list[Any]:
        if not (step.text or step.finish_reason):
            return []
        text, answer.before = answer.before + step.text, ""
        log_probs: Any = None
        if self._request.logprobs:
            found, answer.held = answer.held, []
            log_probs = {
                "tokens": [_text(token) for token, _ in found],
                "token_logprobs": [value for _, value in found],
                "top_logprobs": [{_text(token): value} for token, value in found],
                "text_offset": [],
            }
            for token in log_probs["tokens"]:
                log_probs["text_offset"].append(answer.offset)
                answer.offset += len(token)
        return [_choice(answer.index, {"text": text}, log_probs, step.finish_reason)]

    def _whole(self, index: int) -> Any:
        return _choice(index, {"text": ""}, None, "")

    def _join(self, whole: Any, choice: Any) -> None:
        whole["text"] += choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        if choice["logprobs"]:
            joined = whole["logprobs"] = whole["logprobs"] or {}
            for name, values in choice["logprobs"].items():
                joined.setdefault(name, []).extend(values)


class Chat(Answers):
    """Answers of /v1/chat/completions."""

    object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(
        self,
        request: AnswerRequest,
        make_parser: MakeParser,
        reasoning_field: str,
        prompt_ids: list[int] | None = None,
    ) -> None:
        """Begin.

        Args:
            request: what to answer.
            make_parser: called with the end of the prompt, once for each answer.
            reasoning_field: name of the field for reasoning.
            prompt_ids: see `Answers`.
        """
        self._make_parser = make_parser
        self._reasoning = reasoning_field
        super().__init__(request, prompt_ids)

    def _choices(self, answer: _Answer, step: Step) -> list[Any]:
        if step.prompt_end is not None:
            answer.prompt_end = step.prompt_end
        if not (step.text or step.finish_reason or step.token_ids):
            return []
        begins = answer.parser is None
        if answer.parser is None:
            answer.parser = self._make_parser(answer.prompt_end)
        events = answer.parser.feed(pieces(step, show=self._request.keep_special))
        finish = step.finish_reason
        if finish:
            events += answer.parser.finish(cut=finish == "length")
        deltas = [delta for event in events if (delta := self._delta(answer, event))]
        if finish:
            called = answer.whole_calls and not self._request.named  # as OpenAI's
            finish = "tool_calls" if finish == "stop" and called else finish
        # Each chunk costs time, so role and finish reason come with the text, as vLLM sends them.
        if not deltas and (begins or finish or step.token_ids):
            deltas.append({})
        if begins:
            deltas[0] = {"role": "assistant", "content": "", **deltas[0]}
        choices = [_choice(answer.index, {"delta": delta}, None, "") for delta in deltas]
        if step.token_ids:
            choices[0]["token_ids"] = step.token_ids
        if deltas and self._request.logprobs:
            choices[0]["logprobs"] = {"content": [*map(_log_prob, answer.held)], "refusal": None}
            answer.held = []
        if finish:
            choices[-1]["finish_reason"] = finish
        return choices

    def _delta(self, answer: _Answer, event: Event) -> dict[str, Any] | None:
        match event:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return {self._reasoning: text}
        if event.index and not self._request.parallel_tool_calls:
            return None
        match event:
            case ToolCall(index, name):
                call = {"index": index, "id": f"call_{secrets.token_hex(12)}", "type": "function",
                        "function": {"name": name, "arguments": ""}}  # fmt: skip
                return {"tool_calls": [call]}
            case ToolArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            case ToolCallEnd():
                answer.whole_calls += 1
        return None

    def _whole(self, index: int) -> Any:
        whole: dict[str, Any] = {"message": {"role": "assistant", "content": None}}
        if self._request.return_token_ids:
            whole["token_ids"] = []
        return _choice(index, whole, None, "")

    def _join(self, whole: Any, choice: Any) -> None:
        message, delta = whole["message"], choice["delta"]
        for name in ("content", self._reasoning):
            if name in delta:
                message[name] = (message.get(name) or "") + delta[name]
        for part in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if "id" in part:
                call = {key: value for key, value in part.items() if key != "index"}
                calls.append({**call, "function": dict(part["function"])})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        if "token_ids" in choice:
            whole["token_ids"] += choice["token_ids"]
        if choice["finish_reason"]:
            whole["finish_reason"] = choice["finish_reason"]
            if message.get("tool_calls") and not message["content"]:
                message["content"] = None
        if choice["logprobs"]:
            joined = whole["logprobs"] = whole["logprobs"] or {"content": [], "refusal": None}
            joined["content"].extend(choice["logprobs"]["content"])


def _choice(index: int, part: dict[str, Any], log_probs: Any, finish: str) -> dict[str, Any]:
    return {"index": index, **part, "logprobs": log_probs, "finish_reason": finish or None}


def _text(token: bytes) -> str:
    return token.decode(errors="replace")


def _log_prob(found: tuple[bytes, float]) -> dict[str, Any]:
    token, value = found
    return {"token": _text(token), "logprob": value, "bytes": [*token], "top_logprobs": []}
