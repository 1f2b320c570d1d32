"""Answers in the Harmony format of gpt-oss: messages with a channel and a recipient."""

from __future__ import annotations

import re

from trt_tokenizers.openai.parsing.answer import Answer, CallForm, ReasoningFormat, ToolFormat
from trt_tokenizers.openai.parsing.json_calls import json_arguments
from trt_tokenizers.openai.parsing.reader import Sink, Steps, visible

_START, _MESSAGE, _CHANNEL = "<|start|>", "<|message|>", "<|channel|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_TOKENS = (_START, _MESSAGE, _CHANNEL, "<|constrain|>", *_ENDS)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_PREFIX = "functions."


def _read(answer: Answer) -> Steps[None]:
    reader = answer.reader
    _, started, tail = answer.prompt_end.rpartition(_START)
    head, began, _ = tail.partition(_MESSAGE) if started else ("", "", "")
    while True:
        if not began:
            parts: list[str] = []
            stop = yield from reader.until((_MESSAGE, _START, *_ENDS), parts.append)
            head += visible("".join(parts))
            if stop is None:
                if not reader.cut:
                    answer.content(head.removeprefix("assistant"))
                return
        else:
            stop = _MESSAGE
        if stop == _MESSAGE:
            yield from _message(answer, head)
        head, began = "", ""


def _message(answer: Answer, head: str) -> Steps[None]:
    recipient = _RECIPIENT.search(head)
    channel = head.rpartition(_CHANNEL)[2].split("<")[0].split()
    name = recipient.group(1) if recipient else ""
    if name.startswith(_PREFIX):
        call = answer.call(name.removeprefix(_PREFIX))
        complete = yield from json_arguments(answer, call)
        ends = yield from _body(answer, lambda text: None)
        if complete and (ends or not answer.reader.cut):
            answer.end(call)
    elif name and name != "assistant":
        yield from _body(answer, lambda text: None)  # a built-in tool that was not offered
    elif channel[:1] == ["analysis"] and answer.reasons:
        answer.begin_reasoning()
        if (yield from _body(answer, answer.reasoning)):
            answer.end_reasoning()
    else:
        yield from _body(answer, answer.content)


def _body(answer: Answer, sink: Sink) -> Steps[bool]:
    """Read the text of a message. Returns whether it has an end.

    A marker of the end counts if nothing or the next message follows; else it is text.
    """
    reader = answer.reader
    while stop := (yield from reader.until(_ENDS, sink)):
        if (yield from reader.follows((_START, *_ENDS))) is not None:
            return True
        sink(stop)
    return False


#: `_ENDS` are EOS tokens of the model after a call and after the final message.
_CALL = CallForm(f"{_CHANNEL}commentary to={_PREFIX}{{name}} <|constrain|>json{_MESSAGE}")
GPT_OSS = ToolFormat(tokens=_TOKENS, answer=_read, calls=(_CALL,))
GPT_OSS_REASONING = ReasoningFormat(
    pairs=((f"{_CHANNEL}analysis{_MESSAGE}", _ENDS[0]),),
    tokens=_TOKENS,
    after=f"{_START}assistant",
    final=f"{_CHANNEL}final{_MESSAGE}",
    answer=_read,
)
