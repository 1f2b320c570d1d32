"""Read config.pbtxt with Triton's own schema, and write it in a readable form."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from typing import Any

from trt_tokenizers.settings import PLACEHOLDER

_WIDTH = 100
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DOLLAR = "\\044{"  # ${ in a value, for example in Jinja text, is not a placeholder


def parse_config(text: str) -> Any:
    """A ``tritonclient.grpc.model_config_pb2.ModelConfig``.

    Raises:
        ValueError: *text* does not follow Triton's schema; the message names line and column.
    """
    config = schema().ModelConfig()
    config.CopyFrom(_parsed(text))
    return config


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    """Parsing takes milliseconds, and each command reads a file several times."""
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, schema().ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"not a Triton model configuration: {error}") from None


def schema() -> Any:
    """The module ``tritonclient.grpc.model_config_pb2``, Triton's own schema.

    It is one generated file, and is loaded without the rest of the client library: numpy and grpc
    take a third of a second to import.
    """
    name = "tritonclient.grpc.model_config_pb2"
    if name not in sys.modules:
        package = importlib.import_module("tritonclient").__path__[0]
        spec = importlib.util.spec_from_file_location(name, f"{package}/grpc/model_config_pb2.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def format_config(config: Any, comment: str = "") -> str:
    """The text of a ModelConfig. A tensor, a map entry or a parameter takes one line if it fits.

    Args:
        comment: the first line, without its ``#``.
    """
    from google.protobuf import text_format

    text = text_format.MessageToString(config, as_utf8=False, use_short_repeated_primitives=True)
    # A parameter without a value.
    text = text.replace("  value {\n  }\n", '  value {\n    string_value: ""\n  }\n')
    lines = [f"# {comment}"] if comment else []
    blocks: list[int] = []  # where the open blocks start
    for line in _STRING.sub(_without_placeholder, text).splitlines():
        lines.append(line)
        if line.endswith("{"):
            blocks.append(len(lines) - 1)
        elif line.endswith("}"):
            first, *others = lines[(start := blocks.pop()) :]
            block = " ".join([first, *(other.strip() for other in others)])
            if len(block) <= _WIDTH:
                lines[start:] = [block]
    return "\n".join(lines) + "\n"


def _without_placeholder(string: re.Match[str]) -> str:
    text = string[1]
    return string[0] if PLACEHOLDER.fullmatch(text) else f'"{text.replace("${", _DOLLAR)}"'


def escaped(value: str) -> str:
    """*value* escaped for use inside single or double quotes of the text format.

    ``${`` in a value is escaped as well.
    """
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\"'\\" else f"\\{byte:03o}"
        for byte in value.encode("utf-8", "surrogateescape")
    ).replace("${", _DOLLAR)
