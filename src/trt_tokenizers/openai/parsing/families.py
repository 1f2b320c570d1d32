"""The families of models: what their markers are and how calls are written between them.

Each function is an entry point of the group ``trt_tokenizers.tool_parsers`` or
``trt_tokenizers.reasoning_parsers``, and returns a description. docs/plugins.md says how another
package adds one.
"""

from __future__ import annotations

import re

from trt_tokenizers.openai.parsing import harmony
from trt_tokenizers.openai.parsing.answer import Answer, CallForm, ReasoningFormat, ToolFormat
from trt_tokenizers.openai.parsing.json_calls import named_arguments, object_calls, sections
from trt_tokenizers.openai.parsing.notations import brace_calls, python_calls, python_list
from trt_tokenizers.openai.parsing.reader import Steps
from trt_tokenizers.openai.parsing.xml_calls import ElementForm

_NAME = re.compile(r"[^\s<>{}\[\]\"]{1,256}")
_BEGIN, _END = "<tool_call>", "</tool_call>"
_OBJECT = '{"name": "{name}", "arguments": '
_TAGGED = CallForm(f"{_BEGIN}\n{_OBJECT}", f"}}\n{_END}")


# Calls


def none() -> ToolFormat:
    return ToolFormat()


def _hermes(answer: Answer, found: str) -> Steps[None]:
    answer.reader.keep(found)
    yield from object_calls(answer, _END)


def hermes() -> ToolFormat:
    return ToolFormat(
        opens=(_BEGIN,),
        read=_hermes,
        dropped=(_END,),
        tokens=(_BEGIN, _END),
        trims=True,
        begins=("{",),
        calls=(_TAGGED,),
    )


def granite() -> ToolFormat:
    def read(answer: Answer, found: str) -> Steps[None]:
        answer.reader.keep(found)
        yield from object_calls(answer, _END if found == _BEGIN else "")

    return ToolFormat(
        opens=("<|tool_call|>", _BEGIN),
        read=read,
        dropped=(_END,),
        tokens=("<|tool_call|>", _BEGIN, _END),
        trims=True,
        begins=("[", "{"),
        calls=(CallForm(f"<|tool_call|>[{_OBJECT}", "}]", sign="<|tool_call|>"), _TAGGED),
    )


def qwen3_coder() -> ToolFormat:
    form = ElementForm(
        begin=_BEGIN,
        end=_END,
        call="<function=",
        name_end=">",
        call_head="",
        call_end="</function>",
        parameter="<parameter=",
        key_end=">",
        parameter_head="",
        value_end="</parameter>",
        newlines=True,
    )
    return ToolFormat(
        opens=(_BEGIN, form.call),
        read=form.read,
        dropped=(_END,),
        tokens=(_BEGIN, _END),
        trims=True,
        begins=(form.call,),
    )


def glm() -> ToolFormat:
    form = ElementForm(
        begin=_BEGIN,
        end=_END,
        call=_BEGIN,
        name_end="",
        call_head="",
        call_end=_END,
        parameter="<arg_key>",
        key_end="</arg_key>",
        parameter_head="<arg_value>",
        value_end="</arg_value>",
    )
    return ToolFormat(
        opens=(_BEGIN,),
        read=form.read,
        dropped=(_END,),
        tokens=(_BEGIN, _END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        trims=True,
    )


def _invokes(begin: str, prefix: str = "") -> ElementForm:
    return ElementForm(
        begin=f"<{prefix}{begin}>",
        end=f"</{prefix}{begin}>",
        call=f'<{prefix}invoke name="',
        name_end='"',
        call_head=">",
        call_end=f"</{prefix}invoke>",
        parameter=f'<{prefix}parameter name="',
        key_end='"',
        parameter_head=">",
        value_end=f"</{prefix}parameter>",
    )


def _of_elements(*forms: ElementForm, tokens: tuple[str, ...]) -> ToolFormat:
    by_begin = {form.begin: form for form in forms}
    return ToolFormat(
        opens=tuple(by_begin),
        read=lambda answer, found: by_begin[found].read(answer, found),
        dropped=tuple(form.end for form in forms),
        tokens=tokens,
        trims=True,
        begins=tuple(dict.fromkeys(form.call for form in forms)),
    )


def deepseek_v32() -> ToolFormat:
    mark = "｜DSML｜"
    return _of_elements(
        _invokes("function_calls", mark),
        _invokes("tool_calls", mark),
        _invokes("calls", f"{mark} "),
        tokens=(mark,),
    )


def minimax() -> ToolFormat:
    begin, end = "<minimax:tool_call>", "</minimax:tool_call>"
    return _of_elements(_invokes("minimax:tool_call"), tokens=(begin, end))


def deepseek_v3() -> ToolFormat:
    begin, end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    call, close, separator = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"

    v3 = f"{begin}{call}function{separator}{{name}}\n```json\n"

    def name_of(head: str) -> str:
        kind, found, rest = head.partition(separator)
        name = rest.partition("\n")[0].strip() or kind.strip()
        return name if found and _NAME.fullmatch(name) else ""

    return ToolFormat(
        opens=(begin, call),
        read=sections(begin, call, close, end, name_of),
        dropped=(end, close),
        tokens=(begin, end, call, close, separator),
        begins=(call,),
        calls=(
            CallForm(v3, f"\n```{close}{end}", sign="```json"),
            CallForm(f"{begin}{call}{{name}}{separator}", f"{close}{end}"),
        ),
    )


def kimi() -> ToolFormat:
    begin, end = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
    call, close = "<|tool_call_begin|>", "<|tool_call_end|>"
    arguments = "<|tool_call_argument_begin|>"
    form = ElementForm(
        begin="<|open|>tools<|sep|>",
        end="<|close|>tools<|sep|>",
        call='<|open|>call tool="',
        name_end='"',
        call_head="<|sep|>",
        call_end="<|close|>call<|sep|>",
        parameter='<|open|>argument key="',
        key_end='"',
        parameter_head="<|sep|>",
        value_end="<|close|>argument<|sep|>",
    )

    def name_of(head: str) -> str:
        name, found, _ = head.partition(arguments)
        name = re.sub(r":\d+$", "", name.strip().removeprefix("functions."))
        return name if found and _NAME.fullmatch(name) else ""

    k2 = sections(begin, call, close, end, name_of)
    return ToolFormat(
        opens=(begin, call, form.begin),
        read=lambda answer, found: (form.read if found == form.begin else k2)(answer, found),
        dropped=(end, close, form.end),
        tokens=(begin, end, call, close, arguments, "<|open|>", "<|close|>", "<|sep|>"),
        begins=(call, form.call),
        calls=(CallForm(f"{begin}{call}functions.{{name}}:0{arguments}", f"{close}{end}", begin),),
    )


def _mistral(answer: Answer, found: str) -> Steps[None]:
    reader = answer.reader
    reader.keep(found)
    if (yield from reader.peek()) in ("[", "{"):
        yield from object_calls(answer)
    elif not (yield from named_arguments(answer, _mistral_name, "", (found,))):
        answer.not_a_call()


def _mistral_name(head: str) -> str:
    name = re.split(r"\[(?:CALL_ID|ARGS)\]", head)[0].strip()
    return name if _NAME.fullmatch(name) else ""


def mistral() -> ToolFormat:
    return ToolFormat(
        opens=("[TOOL_CALLS]",),
        read=_mistral,
        tokens=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
        calls=(
            CallForm("[TOOL_CALLS]{name}[ARGS]", sign="[ARGS]"),
            CallForm(f"[TOOL_CALLS] [{_OBJECT}", "}]", sign="[TOOL_CALLS] ["),
            CallForm(f"[TOOL_CALLS][{_OBJECT}", "}]"),
        ),
    )


def _llama(answer: Answer) -> Steps[None]:
    answer.reader.keep()
    if (yield from answer.reader.peek()) == "{":
        yield from object_calls(answer, alone=True)
    else:
        answer.content(answer.reader.kept())


def llama3_json() -> ToolFormat:
    tag = "<|python_tag|>"
    return ToolFormat(
        opens=(tag,),
        read=lambda answer, found: _llama(answer),
        tokens=(tag,),
        start=_llama,
        calls=(CallForm('{"name": "{name}", "parameters": ', "}"),),
    )


def pythonic() -> ToolFormat:
    begin, end = "<|python_start|>", "<|python_end|>"
    return ToolFormat(
        opens=(begin,), read=python_calls, dropped=(end,), tokens=(begin, end), start=python_list
    )


def gemma() -> ToolFormat:
    forms = {
        "<|tool_call>": ("<tool_call|>", '<|"|>'),
        "<start_function_call>": ("<end_function_call>", "<escape>"),
    }
    readers = {begin: brace_calls(close, quote) for begin, (close, quote) in forms.items()}
    closes = tuple(close for close, _ in forms.values())
    return ToolFormat(
        opens=tuple(forms),
        read=lambda answer, found: readers[found](answer, found),
        dropped=closes,
        tokens=(*forms, *closes, *(quote for _, quote in forms.values())),
        begins=("call:",),
    )


def gpt_oss() -> ToolFormat:
    return harmony.GPT_OSS


# Reasoning


def no_reasoning() -> ReasoningFormat:
    return ReasoningFormat()


def _between(*pairs: tuple[str, str]) -> ReasoningFormat:
    return ReasoningFormat(pairs, tuple(marker for pair in pairs for marker in pair))


def think() -> ReasoningFormat:
    return _between(("<think>", "</think>"))


def mistral_reasoning() -> ReasoningFormat:
    return _between(("[THINK]", "[/THINK]"), ("<think>", "</think>"))


def gemma_reasoning() -> ReasoningFormat:
    return ReasoningFormat((("<|channel>thought", "<channel|>"),), ("<|channel>", "<channel|>"))


def granite_reasoning() -> ReasoningFormat:
    return ReasoningFormat(
        (("<think>", "</think>"), ("Here is my thought process:", "Here is my response:")),
        ("<think>", "</think>"),
        ("<response>", "</response>"),
    )


def kimi_reasoning() -> ReasoningFormat:
    element = ("<|open|>", "<|close|>", "<|sep|>")
    return ReasoningFormat(
        (("<think>", "</think>"), ("<|open|>think<|sep|>", "<|close|>think<|sep|>")),
        ("<think>", "</think>", *element),
        (
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>message<|sep|>",
        ),
        ends=("<|open|>response<|sep|>",),
    )


def gpt_oss_reasoning() -> ReasoningFormat:
    return harmony.GPT_OSS_REASONING
