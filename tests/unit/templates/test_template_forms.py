# ruff: noqa: E501 - prompts as published
"""Named templates compared with the formats that the models' makers publish, copied here by hand.

Each format names its source. `PUBLISHED` has whole prompts. `FORMS` has the parts of the formats, to
build the prompts of all test conversations.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from conversations import CONVERSATIONS, MISTRAL, TOOL, Messages, called, talk
from trt_tokenizers.errors import RequestError
from trt_tokenizers.templates.render import load, named_templates

ASKED = ("You are a helpful assistant", "Hello", "Hi there", "Who are you",
         "   I am an assistant   ", "Another question")  # fmt: skip
ROLES = ("system", "user", "assistant", "user", "assistant", "user")

#: Prompts of the models' own templates for `ASKED`, from ggml-org/llama.cpp,
#: tests/test-chat-template.cpp (there without BOS).
PUBLISHED = {
    "chatml": "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nHello"
    "<|im_end|>\n<|im_start|>assistant\nHi there<|im_end|>\n<|im_start|>user\nWho are you<|im_end|>"
    "\n<|im_start|>assistant\n   I am an assistant   <|im_end|>\n<|im_start|>user\nAnother question"
    "<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<bos><start_of_turn>user\nYou are a helpful assistant\n\nHello<end_of_turn>\n"
    "<start_of_turn>model\nHi there<end_of_turn>\n<start_of_turn>user\nWho are you<end_of_turn>\n"
    "<start_of_turn>model\nI am an assistant<end_of_turn>\n<start_of_turn>user\nAnother question"
    "<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful "
    "assistant<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi there<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nWho are you<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nI "
    "am an assistant<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnother question<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "phi3": "<|system|>\nYou are a helpful assistant<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\n"
    "Hi there<|end|>\n<|user|>\nWho are you<|end|>\n<|assistant|>\n   I am an assistant   <|end|>\n"
    "<|user|>\nAnother question<|end|>\n<|assistant|>\n",
    "command-r": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>You are a helpful assistant"
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hi there<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>"
    "<|USER_TOKEN|>Who are you<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>I am an "
    "assistant<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Another question"
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "granite": "<|start_of_role|>system<|end_of_role|>You are a helpful assistant<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>Hello<|end_of_text|>\n<|start_of_role|>assistant"
    "<|end_of_role|>Hi there<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Who are you"
    "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>   I am an assistant   "
    "<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Another question<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
    "mistral-v1": "<s> [INST] You are a helpful assistant\n\nHello [/INST] Hi there</s> [INST] Who "
    "are you [/INST]    I am an assistant   </s> [INST] Another question [/INST]",
    "mistral-v7": "<s>[SYSTEM_PROMPT] You are a helpful assistant[/SYSTEM_PROMPT][INST] Hello[/INST]"
    " Hi there</s>[INST] Who are you[/INST]    I am an assistant   </s>[INST] Another question"
    "[/INST]",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_conversation(name: str) -> None:
    messages = [{"role": r, "content": c} for r, c in zip(ROLES, ASKED, strict=True)]
    expected = PUBLISHED[name]
    if name == "mistral-v7":  # mistral-common drops spaces at the end of an answer
        expected = expected.replace("assistant   </s>", "assistant</s>")
    assert render(name, messages) == expected


@dataclass(frozen=True)
class Form:
    """The text around the content "{}" of each role.

    Attributes:
        source: where it is published.
        system: None: the system message precedes the first user's content, with an empty line between.
        default: the system message if the conversation has none.
        trims: roles whose contents are stripped.
    """

    source: str
    begin: str
    system: str | None
    user: str
    assistant: str
    generation: str
    default: str = ""
    trims: tuple[str, ...] = ()


TODAY = datetime.now().strftime("%Y-%m-%d")
HARMONY = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    f"Knowledge cutoff: 2024-06\nCurrent date: {TODAY}\n\nReasoning: medium\n\n# Valid channels: "
    "analysis, commentary, final. Channel must be included for every message.<|end|>"
)

FORMS = {
    "chatml": Form(
        "openai/openai-python, chatml.md", "", "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}<|im_end|>\n",
        "<|im_start|>assistant\n"),
    "llama3": Form(
        "meta-llama/llama3, README: Instruction-tuned Models", "<|begin_of_text|>",
        "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n", trims=ROLES[:3]),
    "gemma": Form(
        "ai.google.dev/gemma/docs/formatting", "<bos>", None,
        "<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n{}<end_of_turn>\n",
        "<start_of_turn>model\n", trims=ROLES[1:3]),
    "phi3": Form(
        "microsoft/Phi-3-mini-4k-instruct, card: Chat Format", "", "<|system|>\n{}<|end|>\n",
        "<|user|>\n{}<|end|>\n", "<|assistant|>\n{}<|end|>\n", "<|assistant|>\n"),
    "qwen": Form(
        "qwen.readthedocs.io: Key Concepts, Control Tokens & Chat Template", "",
        "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n{}<|im_end|>\n", "<|im_start|>assistant\n"),
    "deepseek": Form(
        "deepseek-ai/DeepSeek-V3, card: tokenizer_config.json", "<｜begin▁of▁sentence｜>", "{}",
        "<｜User｜>{}", "<｜Assistant｜>{}<｜end▁of▁sentence｜>", "<｜Assistant｜>"),
    "zephyr": Form(
        "HuggingFaceH4/zephyr-7b-beta, card: Intended uses", "", "<|system|>\n{}</s>\n",
        "<|user|>\n{}</s>\n", "<|assistant|>\n{}</s>\n", "<|assistant|>\n"),
    "vicuna": Form(
        "lm-sys/FastChat, conversation.py: vicuna_v1.1", "", "{} ", "USER: {} ", "ASSISTANT: {}</s>",
        "ASSISTANT:", default="A chat between a curious user and an artificial intelligence "
        "assistant. The assistant gives helpful, detailed, and polite answers to the user's "
        "questions."),
    "alpaca": Form(
        "tatsu-lab/stanford_alpaca, README: Data Release", "", "{}", "\n\n### Instruction:\n{}",
        "\n\n### Response:{}", "\n\n### Response:", default="Below is an instruction that describes "
        "a task. Write a response that appropriately completes the request."),
    "command-r": Form(
        "CohereForAI/c4ai-command-r-v01, card: Usage", "<BOS_TOKEN>",
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", trims=ROLES[1:3]),
    "granite": Form(
        "ibm-granite/granite-3.0-8b-instruct, card: tokenizer_config.json", "",
        "<|start_of_role|>system<|end_of_role|>{}<|end_of_text|>\n",
        "<|start_of_role|>user<|end_of_role|>{}<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>{}<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>"),
    "gpt-oss": Form(
        "openai/harmony, docs/format.md", HARMONY,
        "<|start|>developer<|message|># Instructions\n\n{}\n\n<|end|>",
        "<|start|>user<|message|>{}<|end|>",
        "<|start|>assistant<|channel|>final<|message|>{}<|end|>", "<|start|>assistant"),
}  # fmt: skip


def by_form(form: Form, messages: Messages) -> str:
    prompt, folded = form.begin, ""
    if messages[0]["role"] != "system" and form.default:
        messages = [{"role": "system", "content": form.default}, *messages]
    for message in messages:
        content = (
            message["content"].strip() if message["role"] in form.trims else message["content"]
        )
        if message["role"] == "system" and form.system is None:
            folded = f"{content}\n\n"
            continue
        if message["role"] == "user":
            content, folded = folded + content, ""
        around = {"system": form.system, "user": form.user, "assistant": form.assistant}
        before, after = str(around[message["role"]]).split("{}")
        prompt += before + content + after
    return prompt + form.generation


@pytest.mark.parametrize("name", FORMS)
def test_conversations(name: str) -> None:
    for messages in CONVERSATIONS:
        assert render(name, messages) == by_form(FORMS[name], messages), messages


def test_every_named_template_has_a_reference() -> None:
    """Mistral's is mistral-common, in tests/oracle; llama2's is in test_templates."""
    assert set(named_templates()) == {*FORMS, *MISTRAL, "llama2"}


def render(name: str, messages: Messages, **arguments: object) -> str:
    template = load(name, None)
    assert template is not None
    tools = arguments.pop("tools", None)
    return template.render(messages, {}, tools=tools, arguments=arguments)  # type: ignore[arg-type]


def test_qwen_tools_and_thinking() -> None:
    """As in Qwen/Qwen3-8B, tokenizer_config.json."""
    called = {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "weather", "arguments": {"city": "Łódź"}}}]}  # fmt: skip
    messages = [*talk("Hi"), called, {"role": "tool", "content": "sun"},
                {"role": "tool", "content": "wind"}]  # fmt: skip
    prompt = render("qwen", messages, tools=[TOOL], enable_thinking=False)
    head, rest = prompt.split("<tools>\n", 1)
    assert head.startswith("<|im_start|>system\n# Tools\n\nYou may call one or more functions")
    assert rest.startswith('{"type": "function", "function": {"name": "weather", ')
    assert prompt.endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Łódź"}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nsun\n</tool_response>\n"
        "<tool_response>\nwind\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n"
    )
    thought = talk("a", "<think>\nhm\n</think>\n\nb", "c")
    assert "hm" not in render("qwen", thought), "earlier thoughts are left out"


def test_granite_tools() -> None:
    """As in ibm-granite/granite-3.0-8b-instruct, tokenizer_config.json."""
    prompt = render("granite", talk("Hi"), tools=[TOOL])
    assert prompt.startswith(
        '<|start_of_role|>available_tools<|end_of_role|>\n{\n    "type": "function",\n'
    )
    assert "\n}<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n" in prompt


def test_granite_calls() -> None:
    """IBM's templates of 3.1 and later: "<|tool_call|> followed by a JSON list of tools used"."""
    call = (
        '<|start_of_role|>assistant<|end_of_role|><|tool_call|>[{"name": "weather", "arguments": '
        '{"city": "Łódź"}}]<|end_of_text|>\n<|start_of_role|>tool_response<|end_of_role|>sunny, '
        "20 °C<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
    )
    for arguments in ({"city": "Łódź"}, '{"city": "Łódź"}'):
        assert render("granite", called(arguments)).endswith(call)


def test_llama3_tools() -> None:
    """As in meta-llama/Llama-3.1-8B-Instruct, tokenizer_config.json."""
    prompt = render("llama3", called('{"city": "Łódź"}'), tools=[TOOL], date_string="01 Jan 2026")
    assert prompt.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 01 Jan 2026\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond "
        "with a JSON for a function call with its proper arguments that best answers the given "
        'prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        'argument name and its value}.Do not use variables.\n\n{\n    "type": "function",\n'
    )
    assert prompt.endswith(
        "\n}\n\nHow is the weather?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": "Łódź"}}<|eot_id|><|start_header_id|>ipython'
        '<|end_header_id|>\n\n"sunny, 20 °C"<|eot_id|><|start_header_id|>assistant'
        "<|end_header_id|>\n\n"
    )
    in_system = render("llama3", talk("Hi", system="s"), tools=[TOOL], tools_in_user_message=False)
    assert "\n}\n\ns<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>" in in_system


def test_llama3_refuses_several_calls_at_once_and_tools_without_a_user_message() -> None:
    messages = called("{}")
    messages[1]["tool_calls"] *= 2
    with pytest.raises(RequestError, match=r"'llama3' refuses .* one tool call at a time"):
        render("llama3", messages, tools=[TOOL])
    with pytest.raises(RequestError, match=r"'llama3' refuses .* first user message"):
        render("llama3", [{"role": "system", "content": "s"}], tools=[TOOL])


def test_deepseek_calls() -> None:
    """As in deepseek-ai/DeepSeek-V3-0324 and R1-0528, tokenizer_config.json.

    vllm-project/vllm's examples/tool_chat_template_deepseekv3.jinja and …r1.jinja derive from them.
    """
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź"}}}
    as_text = {"type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages = [
        *talk("Hi", system="s"),
        {"role": "assistant", "content": "<think>hm</think>I look.", "tool_calls": [call, as_text]},
        {"role": "tool", "content": "sun"},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": None, "tool_calls": [as_text]},
        {"role": "tool", "content": "one"},
    ]
    prompt = (
        "<｜begin▁of▁sentence｜>s<｜User｜>Hi<｜Assistant｜>I look.<｜tool▁calls▁begin｜>"
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Łódź"}\n```'
        "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜><｜tool▁outputs▁begin｜>"
        "<｜tool▁output▁begin｜>sun<｜tool▁output▁end｜>\n<｜tool▁output▁begin｜>noon"
        "<｜tool▁output▁end｜><｜tool▁outputs▁end｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
        "<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        "<｜end▁of▁sentence｜><｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>one<｜tool▁output▁end｜>"
        "<｜tool▁outputs▁end｜>"
    )
    assert render("deepseek", messages) == prompt, "no <｜Assistant｜> after tool answers"
    answered = [*messages, {"role": "assistant", "content": "It is one."}, *talk("Bye")]
    assert render("deepseek", answered) == (
        f"{prompt}It is one.<｜end▁of▁sentence｜><｜User｜>Bye<｜Assistant｜>"
    )


COMMAND_R_TOOLS = [
    {"type": "function", "function": {
        "name": "internet_search",
        "description": "Returns a list of relevant document snippets for a textual query retrieved "
        "from the internet",
        "parameters": {"type": "object", "required": ["query"], "properties": {
            "query": {"type": "string", "description": "Query to search the internet with"}}}}},
    {"type": "function", "function": {
        "name": "directly_answer",
        "description": "Calls a standard (un-augmented) AI chatbot to generate a response given the "
        "conversation history",
        "parameters": {"type": "object", "properties": {}}}},
]  # fmt: skip
COMMAND_R_HEAD = """<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Safety Preamble
The instructions in this section override those in the task description and style guide sections. Don't answer questions that are harmful or immoral.

# System Preamble
## Basic Rules
You are a powerful conversational AI trained by Cohere to help people. You are augmented by a number of tools, and your job is to use and consume the output of these tools to best help the user. You will see a conversation history between yourself and a user, ending with an utterance from the user. You will then see a specific instruction instructing you what kind of response to generate. When you answer the user's requests, you cite your sources in your answers, according to those instructions.

# User Preamble
## Task and Context
You help people answer their questions and other requests interactively. You will be asked a very wide array of requests on all kinds of topics. You will be equipped with a wide range of search engines or similar tools to help you, which you use to research your answer. You should focus on serving the user's needs as best you can, which will be wide-ranging.

## Style Guide
Unless the user asks for a different style of answer, you should answer in full sentences, using proper grammar and spelling.

## Available Tools
Here is a list of tools that you have available to you:

```python
def internet_search(query: str) -> List[Dict]:
    \"\"\"Returns a list of relevant document snippets for a textual query retrieved from the internet

    Args:
        query (str): Query to search the internet with
    \"\"\"
    pass
```

```python
def directly_answer() -> List[Dict]:
    \"\"\"Calls a standard (un-augmented) AI chatbot to generate a response given the conversation history
    \"\"\"
    pass
```<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Whats the biggest penguin in the world?<|END_OF_TURN_TOKEN|>"""
COMMAND_R_CALL = """<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>
Action:
```json
[
    {
        "tool_name": "internet_search",
        "parameters": {
            "query": "biggest penguin species"
        }
    }
]```
<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>
Tool results go here!</results><|END_OF_TURN_TOKEN|>"""
COMMAND_R_END = """<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Write 'Action:' followed by a json-formatted list of actions that you want to perform in order to produce a good response to the user's last input. You can use any of the supplied tools any number of times, but you should aim to execute the minimum number of necessary actions for the input. You should use the `directly-answer` tool if calling the other tools is unnecessary. The list of actions you want to call should be formatted as a list of json objects, for example:
```json
[
    {
        "tool_name": title of the tool in the specification,
        "parameters": a dict of parameters to input into the tool as they are defined in the specs, or {} if it takes no parameters
    }
]```<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"""


def penguins(arguments: object) -> Messages:
    call = {"function": {"name": "internet_search", "arguments": arguments}}
    return [
        *talk("Whats the biggest penguin in the world?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "Tool results go here!"},
    ]


@pytest.mark.parametrize(
    "arguments", [{"query": "biggest penguin species"}, '{"query": "biggest penguin species"}']
)
def test_command_r_tools(arguments: object) -> None:
    """Prompts of CohereForAI/c4ai-command-r-v01's own tool_use template.

    From huggingface/huggingface.js, packages/jinja/test/e2e.test.js; the one without a call from
    huggingface/transformers, tests/models/cohere/test_tokenization_cohere.py.
    """
    messages = penguins(arguments)
    question = render("command-r", messages[:1], tools=COMMAND_R_TOOLS)
    assert question == COMMAND_R_HEAD + COMMAND_R_END
    prompt = render("command-r", messages, tools=COMMAND_R_TOOLS)
    assert prompt == COMMAND_R_HEAD + COMMAND_R_CALL + COMMAND_R_END


def test_command_r_parameters_of_all_types() -> None:
    """As in CohereForAI/c4ai-command-r-plus, tool_use, from ggerganov/llama.cpp, models/templates.

    docs/templates.md lists the differences.
    """
    properties = {
        "count": {"type": "integer", "description": "How many"},
        "share": {"type": ["number", "boolean"], "description": "A part"},
        "names": {"type": "array", "items": {"type": "string"}, "description": "Whose"},
        "any": {"anyOf": []},
        "map": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    tool = {"name": "f", "parameters": {"properties": properties, "required": ["count"]}}
    messages = penguins({})
    messages[1] |= {"content": " I look. ", "tool_calls": messages[1]["tool_calls"] * 2}
    prompt = render("command-r", [{"role": "system", "content": " s "}, *messages],
                    tools=[tool, {"name": "g"}])  # fmt: skip
    assert "\n\n# User Preamble\n s \n\n## Available Tools\n" in prompt
    assert (
        "\n\n```python\ndef f(count: int, share: Optional[Union[float,bool]] = None, names: "
        "Optional[List[str]] = None, any: Optional[Any] = None, map: Optional[Dict[str, float]] = "
        'None) -> List[Dict]:\n    """\n\n    Args:\n        count (int): How many\n        share '
        "(Optional[Union[float,bool]]): A part\n        names (Optional[List[str]]): Whose\n"
        "        any (Optional[Any]): \n        map (Optional[Dict[str, float]]): \n    "
        '"""\n    pass\n```\n\n```python\ndef g() -> List[Dict]:\n    """\n    """\n    pass\n```<'
    ) in prompt
    call = '    {\n        "tool_name": "internet_search",\n        "parameters": {}\n    }'
    assert f"<|CHATBOT_TOKEN|>I look.\nAction:\n```json\n[\n{call},\n{call}\n]```\n<" in prompt


def test_command_r_refuses_unsupported_tools_and_calls() -> None:
    for messages, tools, why in (
        (penguins({}), None, "need tools in the request"),
        (penguins("{"), COMMAND_R_TOOLS, "arguments of a tool call are not JSON"),
        (talk("Hi"), [{"name": "f", "parameter_definitions": {}}], "as JSON schema"),
        ([{"role": "developer", "content": "d"}], COMMAND_R_TOOLS, "the role developer"),
    ):
        with pytest.raises(RequestError, match=f"'command-r' refuses these messages: .*{why}"):
            render("command-r", messages, tools=tools)


@pytest.mark.parametrize(("name", "tools"), [("deepseek", None), ("command-r", COMMAND_R_TOOLS)])
def test_an_answer_without_a_call_is_refused(name: str, tools: object) -> None:
    answer = {"role": "tool", "content": "sun"}
    for messages in ([answer], [*talk("Hi"), answer], [*talk("Hi", "Hello"), answer]):
        with pytest.raises(RequestError, match=f"'{name}' refuses .* must follow a tool call"):
            render(name, messages, tools=tools)


WITH_TOOLS = {"command-r", "granite", "llama3", "mistral-v3", "mistral-v3-tekken", "mistral-v7",
              "mistral-v7-tekken", "qwen"}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "taking", "given"),
    [("tools", WITH_TOOLS, {"messages": talk("Hi"), "tools": [TOOL]}),
     ("tool_calls", WITH_TOOLS | {"deepseek"}, {"messages": called({})})],
)  # fmt: skip
def test_templates_without_tools_refuse_them(
    what: str, taking: set[str], given: dict[str, Any]
) -> None:
    """The error names the templates that support them."""
    named = ", ".join(sorted(taking))
    for name in {*named_templates()} - taking:
        refusal = rf"'{name}' does not support {what}; leave them out, .*: {named}, or auto"
        with pytest.raises(RequestError, match=refusal):
            render(name, **given)


@pytest.mark.parametrize("name", sorted({*named_templates()} - {"chatml", "gpt-oss"}))
def test_an_unknown_role_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"'{name}' refuses these messages"):
        render(name, [{"role": "developer", "content": "d"}, *talk("Hi")])


def test_continue_final_message_as_transformers(bpe_dir: object) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(bpe_dir)
    template = load("auto", oracle.chat_template)
    assert template is not None
    for last in ("The sky", " is ", "so\n"):
        messages = talk("What colour?", last)
        expected = oracle.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        got = template.render(messages, {}, arguments={"continue_final_message": True})
        assert got == expected
        plain = oracle.apply_chat_template(messages, tokenize=False)
        assert template.render(messages, {}, arguments={"add_generation_prompt": False}) == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"messages": []}, "chat_template_kwargs has 'messages'"),
     ({"tools": []}, "chat_template_kwargs has 'tools'"),
     ({"continue_final_message": True, "add_generation_prompt": True}, "send one of them"),
     ({"continue_final_message": True}, "changes the last message, or it is empty")],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    template = load("chatml", None)
    assert template is not None
    with pytest.raises(RequestError, match=message):
        template.render(talk("a", ""), {}, arguments=arguments)


def test_reasoning_effort_reaches_gpt_oss() -> None:
    assert "Reasoning: high" in render("gpt-oss", talk("a"), reasoning_effort="high")
