"""Guides in TensorRT-LLM's forms -> grammars of llguidance.

docs/engines.md says where the result differs from the other engines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from llguidance import LLMatcher, LLTokenizer, regex_to_lark
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from trt_tokenizers.hf_config import parse_json

#: White space inside JSON. A small model that samples may write white space without end.
_WHITESPACE = r" |\r?\n[ \t]{0,24}"
#: Text around the tags of a structural tag.
_TEXT = r"/(.|\n)*/"
#: In EBNF: a literal or a class of characters; a comment; the end of a line that a rule continues.
_PART = re.compile(r"""("(?:\\.|[^"\\\n])*"|\[(?:\\.|[^]\\\n])*\])|#[^\n]*|\s*\n\s*(?=\|)""")
_ESCAPE = re.compile(r"\\\\|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")


def grammar(kind: str, guide: str, tokenizer: LLTokenizer) -> str:
    """The grammar of a guide, for LLMatcher.

    Args:
        kind: a key of `sampling_params.GUIDES`.
        guide: empty for the kind ``json``.
        tokenizer: finds special tokens in a structural tag.

    Raises:
        ValueError: the guide has not the form of its kind. LLMatcher finds all other errors.
    """
    if kind == "json":
        return _json({"type": "object"})
    if kind == "json_schema":
        return _json(parse_json(guide))
    if kind == "regex":
        return f"start: {_regex(guide)}"
    if kind == "ebnf_grammar":
        return _ebnf(guide)
    return _StructuralTag(tokenizer).grammar(parse_json(guide))


def _json(schema: Any) -> str:
    return str(LLMatcher.grammar_from_json_schema(_spaced(schema)))


def _spaced(schema: Any) -> Any:
    """*schema* with llguidance's option for white space."""
    if not isinstance(schema, dict):
        return schema
    return {**schema, "x-guidance": {"whitespace_pattern": _WHITESPACE}}


def _regex(pattern: str) -> str:
    r"""The terminal of a pattern. ``\d`` and ``\w`` are ASCII, as in JavaScript and XGrammar."""
    return f"/{regex_to_lark(pattern, 'dw')}/"


def _ebnf(text: str) -> str:
    """The Lark grammar of a grammar in XGrammar's EBNF, which is llama.cpp's GBNF.

    Raises:
        ValueError: it is no such grammar.
    """
    # The converter ends a rule at the end of a line, and drops zeros of escaped characters.
    lines = _PART.sub(lambda part: _ESCAPE.sub(_character, part[1]) if part[1] else " ", text)
    try:
        return str(gbnf_to_lark(lines))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except GbnfToLarkError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # for an undefined rule the converter raises Exception itself
        if type(error) is not Exception:
            raise
        raise ValueError(str(error)) from None


def _character(found: re.Match[str]) -> str:
    digits = found[1] or found[2]
    if digits is None:
        return found[0]
    code = int(digits, 16)
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


class _StructuralTag:
    """Lark for XGrammar's structural tags: ``format``, or the older ``structures``."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._rules: list[str] = []
        self._grammars: list[dict[str, str]] = []
        self._formats: dict[str, Callable[[dict[str, Any]], str]] = {
            "const_string": lambda f: self._literal(f["value"]),
            "json_schema": lambda f: f"%json {json.dumps(_spaced(f['json_schema']))}",
            "regex": lambda f: _regex(f["pattern"]),
            "grammar": lambda f: self._nested(f["grammar"]),
            "any_text": lambda f: _TEXT,
            "sequence": lambda f: f"({' '.join(self._each(f['elements']))})",
            "or": lambda f: f"({' | '.join(self._each(f['elements']))})",
            "tag": lambda f: f"({self._tag(f)})",
            "triggered_tags": self._triggered,
        }

    def grammar(self, tag: Any) -> str:
        """The grammar of a parsed structural tag.

        Raises:
            ValueError: it is no structural tag, or has a format that is not supported.
        """
        if not isinstance(tag, dict) or not ("format" in tag or "structures" in tag):
            raise ValueError('it is no JSON object with "format", or "structures" and "triggers"')
        try:
            start = self._format(tag.get("format") or _from_structures(tag))
        except KeyError as error:
            raise ValueError(f"a part of it has no {error}") from None
        except (AttributeError, TypeError):
            raise ValueError("a part of it has a value of the wrong type") from None
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        lark = "\n".join(["%llguidance {}", f"start: {start}", *self._rules])
        main = {"name": "structural_tag", "lark_grammar": lark}
        return json.dumps({"grammars": [main, *self._grammars]})

    def _format(self, f: dict[str, Any]) -> str:
        if f["type"] not in self._formats:
            raise ValueError(
                f"its format {f['type']!r} is not supported; it must be one of "
                + ", ".join(self._formats)
            )
        return self._formats[f["type"]](f)

    def _each(self, formats: list[dict[str, Any]]) -> Iterator[str]:
        return (self._format(f) for f in formats)

    def _rule(self, body: str, attributes: str = "") -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def _nested(self, ebnf: str) -> str:
        name = f"g{len(self._grammars)}"
        self._grammars.append({"name": name, "lark_grammar": _ebnf(ebnf)})
        return f"@{name}"

    def _literal(self, text: str) -> str:
        """*text*, with the special tokens in it as tokens."""
        parts, plain = [], bytearray()
        for token in self._tokenizer.tokenize_str(text, parse_special=True):
            if self._tokenizer.is_special_token(token):
                parts += [_quoted(plain), f"<[{token}]>"]
                plain = bytearray()
            else:
                plain += self._tokenizer.decode_bytes([token])
        return " ".join(part for part in [*parts, _quoted(plain)] if part)

    def _tag(self, f: dict[str, Any], skip: int = 0) -> str:
        """A tag without the first *skip* characters of its begin."""
        begin, end = self._literal(f["begin"][skip:]), self._literal(f["end"])
        if f["content"]["type"] == "any_text":
            return f"{begin} {self._until(end)}"
        return f"{begin} {self._format(f['content'])} {end}"

    def _until(self, end: str) -> str:
        """Text up to *end*, and *end*."""
        if end.startswith("<["):
            return f"{_TEXT} {end}"
        return self._rule(f"{_TEXT} {end}", "[lazy]")

    def _triggered(self, f: dict[str, Any]) -> str:
        choices = []
        for trigger in f["triggers"]:
            tags = [tag for tag in f["tags"] if tag["begin"].startswith(trigger)]
            bodies = " | ".join(self._tag(tag, len(trigger)) for tag in tags)
            if bodies:
                choices.append(f"{self._until(self._literal(trigger))} ({bodies})")
        if not choices:
            raise ValueError("the begin of no tag starts with one of its triggers")
        once = self._rule(" | ".join(choices))
        if f.get("stop_after_first"):
            return once if f.get("at_least_one") else f"({once} | {_TEXT})"
        return f"{once}{'+' if f.get('at_least_one') else '*'} {_TEXT}"


def _quoted(plain: bytearray) -> str:
    return json.dumps(plain.decode(), ensure_ascii=False) if plain else ""


def _from_structures(tag: dict[str, Any]) -> dict[str, Any]:
    """The older form of a structural tag as a format."""
    return {
        "type": "triggered_tags",
        "triggers": tag["triggers"],
        "tags": [
            {
                "begin": each["begin"],
                "content": {"type": "json_schema", "json_schema": each["schema"]},
                "end": each["end"],
            }
            for each in tag["structures"]
        ],
    }
