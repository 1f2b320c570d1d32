"""Guides like those of real APIs: 60 JSON schemas, 20 regexes, 10 grammars. Answers are short."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema

Schema = dict[str, Any]


def text(most: int = 12, **more: Any) -> Schema:
    return {"type": "string", "maxLength": most, **more}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def number(low: float | None = None, high: float | None = None, kind: str = "integer") -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": kind, **{name: bound for name, bound in bounds.items() if bound is not None}}


def items(schema: Schema, most: int = 2, least: int = 1, **more: Any) -> Schema:
    return {"type": "array", "items": schema, "minItems": least, "maxItems": most, **more}


def record(optional: tuple[str, ...] = (), **properties: Any) -> Schema:
    """An object of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def form(name: str) -> Schema:
    return {"type": "string", "format": name}


FLAG: Schema = {"type": "boolean"}
MONEY = record(amount=number(0, 9999), currency=one_of("EUR", "KRW", "USD"))
POINT = record(lat=number(-90, 90, "number"), lon=number(-180, 180, "number"))

#: Name -> schema; the names say what kind of API has such an object.
SCHEMAS: dict[str, Schema] = {
    "chat completion": record(role={"const": "assistant"}, content=text(), n=number(1, 3)),
    "tool call": record(name=one_of("search", "open"), arguments=record(q=text())),
    "weather": record(city=text(), unit=one_of("celsius", "fahrenheit"), now=number(-50, 60)),
    "payment intent": record(amount=MONEY, status=one_of("succeeded", "canceled"), live=FLAG),
    "issue": record(number=number(1), title=text(), labels=items(text(8)), locked=FLAG),
    "commit": record(sha=text(40, pattern="^[0-9a-f]{7}$"), message=text(20)),
    "pod": record(
        kind={"const": "Pod"}, metadata=record(name=text(10, pattern="^[a-z][a-z0-9-]*$")),
        spec=record(replicas=number(0, 9)),
    ),
    "event": record(id=form("uuid"), at=form("date-time")),
    "user": record(id=number(1, 99999), email=form("email"), admin=FLAG),
    "birthday": record(name=text(), born=form("date")),
    "alarm": record(at=form("time"), repeat=items(one_of("Mon", "Tue", "Wed"), 3)),
    "host": record(address=form("ipv4"), name=form("hostname")),
    "interface": record(address=form("ipv6"), up=FLAG),
    "task": record(title=text(), after=form("duration")),
    "map marker": record(position=POINT, label=text()),
    "route": record(points=items(POINT, 2, 2)),
    "tree": {
        "$defs": {"node": record(v=number(0, 9), children=items({"$ref": "#/$defs/node"}, 2, 0))},
        "$ref": "#/$defs/node",
    },
    "linked list": {
        "$defs": {"cell": {"anyOf": [
            {"type": "null"}, record(head=one_of(1, 2), tail={"$ref": "#/$defs/cell"}),
        ]}},
        **record(list={"$ref": "#/$defs/cell"}),
    },
    "order": {
        "definitions": {"line": record(sku=text(6), count=number(1, 9))},
        **record(lines=items({"$ref": "#/definitions/line"}), gift=FLAG),
    },
    "shape": {"anyOf": [
        record(type={"const": "circle"}, r=number(1, 9)),
        record(type={"const": "square"}, side=number(1, 9)),
    ]},
    "message part": record(part={"anyOf": [
        record(type={"const": "text"}, text=text()),
        record(type={"const": "image"}, width=number(1, 4096)),
    ]}),
    "nullable": record(nickname={"type": ["string", "null"], "maxLength": 9}, age=number(0, 120)),
    "optional": record(("b", "c"), a=number(0, 5), b=text(), c=FLAG),
    "tuple": record(rgb={"type": "array", "prefixItems": [number(0, 255)] * 3, "items": False,
                         "minItems": 3}),
    "map of counts": {"type": "object", "additionalProperties": number(0, 9),
                      "minProperties": 1, "maxProperties": 3},
    "labels": {"type": "object", "patternProperties": {"^[a-z]{1,8}$": text(6)},
               "additionalProperties": False, "minProperties": 1, "maxProperties": 2},
    "percent": record(share=number(0, 100, "number")),
    "exclusive": record(x={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    "even": record(n={"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 98}),
    "price": record(usd={"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 99}),
    "rating": record(stars=number(1, 5), review=text(20, minLength=1)),
    "sentiment": one_of("positive", "negative", "neutral"),
    "yes or no": {"type": "boolean"},
    "answer": {"type": "integer", "minimum": 1, "maximum": 42},
    "word": {"type": "string", "minLength": 2, "maxLength": 10},
    "numbers": items(number(0, 9), 5, 3),
    "matrix": items(items(number(0, 1), 2, 2), 2, 2),
    "records": items(record(k=text(5), v=number(0, 9))),
    "한국어": record(이름=text(8, pattern="^[가-힣]{2,4}$"), 나이=number(0, 120)),
    "emoji": record(**{"🙂": one_of("👍", "👎", "🤷🏽‍♀️")}, why=text()),
    "escaped names": record(**{'a"b': FLAG, "c\\d": FLAG, "e/f\n": FLAG}),
    "escaped values": one_of('say "hi"', "back\\slash", "two\nlines"),
    "mixed values": one_of(None, True, 3, "three", [3], {"three": 3}),
    "deep": record(a=record(b=record(c=record(d=record(e=number(0, 9)))))),
    "all of": {"allOf": [record(a=FLAG), {"type": "object", "minProperties": 1}]},
    "one of": {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]},
    "defaults": record(limit={**number(1, 100), "default": 10}, cursor={"type": "null"}),
    "titles": {"title": "Page", "description": "of results", **record(next=FLAG)},
    "phone": record(phone=text(14, pattern=r"^\+[1-9]\d{6,11}$")),
    "version": record(version=text(9, pattern=r"^\d{1,2}\.\d{1,2}\.\d{1,2}$")),
    "color": record(hex=text(7, pattern="^#[0-9A-F]{6}$")),
    "iban": record(iban=text(22, pattern="^DE[0-9]{20}$")),
    "flight": record(number=text(6, pattern="^[A-Z]{2}[0-9]{2,4}$"), gate=text(3), delay=number(0)),
    "bounding box": record(box=items(number(0, 999), 4, 4), score=number(0, 1, "number")),
    "job": record(state=one_of("queued", "running", "done"), eta={"anyOf": [
        number(0, 600), {"type": "null"}]}),
    "ticket": record(("assignee",), priority=one_of("P0", "P1", "P2"), assignee=text(),
                     tags=items(one_of("bug", "ui", "api"), 3, 0)),
    "query": record(filter=record(field=text(8), op=one_of("=", "<", ">="), value={
        "type": ["integer", "boolean"]})),
    "permissions": record(read=FLAG, write=FLAG, admin=FLAG),
    "recipe": record(name=text(16), minutes=number(1, 600), steps=items(text(16), 2)),
    "review": record(verdict=one_of("accept", "reject"), reasons=items(text(14), 2), score=number(
        0, 10, "number")),
}  # fmt: skip

REGEXES = [
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"(yes|no|maybe)", r"^\d{3}-\d{4}$", r"[A-Z][a-z]{2,8}",
    r"[가-힣]{2,5}", r"(안녕|감사)(하세요|합니다)[.!]", r"(😀|🙂|😉|😂){1,3}", r"👨‍👩‍👧‍👦|🇰🇷|👍🏽",
    r"#[0-9a-f]{6}", r"(\d{1,3}\.){3}\d{1,3}", r"[a-z]{2,8}@[a-z]{2,8}\.(com|org)",
    r"https?://[a-z]{3,9}\.org/[\w/-]{0,9}", r"-?(0|[1-9]\d{0,3})(\.\d{1,3})?", r"[01]{8}",
    r"(?i:true|false)", r"\$[0-9]{1,5}\.[0-9]{2}", r'"[^"\n]{0,12}"', r"[ぁ-ん]{2,6}|[一-龯]{1,3}",
    r"(?:ab?c){1,3}", r"[^a-zA-Z0-9\s]{3}",
]  # fmt: skip

#: A grammar, and a regex of Python that matches its answers.
GRAMMARS = [
    ('root ::= "yes" | "no"', r"yes|no"),
    ('root ::= num ("+" num)+\nnum ::= [0-9]{1,2}', r"\d{1,2}(\+\d{1,2})+"),
    ('root ::= "(" root ")" | "x"', r"\(*x\)*"),
    ('root ::= "SELECT " col " FROM " [a-z]{1,8}\ncol ::= "a"\n  | "b" # two',
     r"SELECT [ab] FROM [a-z]{1,8}"),
    ('root ::= word (", " word){1,2} "."\nword ::= [가-힣]{1,3}',
     r"[가-힣]{1,3}(, [가-힣]{1,3}){1,2}\."),
    ('root ::= face{2}\nface ::= "😀" | "🙁" | "\\U0001F44D"', r"[😀🙁👍]{2}"),
    ('root ::= "{" pair "}"\npair ::= "\\"a\\": " ("1" | "2")', r'\{"a": [12]\}'),
    ('root ::= "- " line "\\n- " line\nline ::= [^\\n]{1,12}', r"- [^\n]{1,12}\n- [^\n]{1,12}"),
    ('root ::= [\\u00e0-\\u00ff]{3} "\\x21"?', r"[à-ÿ]{3}!?"),
    ('root ::= Move{1,2}\nMove ::= [a-h] [1-8] ("-" | "x") [a-h] [1-8] ";"',
     r"([a-h][1-8][-x][a-h][1-8];){1,2}"),
]  # fmt: skip

Check = Callable[[str], bool]


def is_valid(schema: Schema) -> Check:
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )

    def check(answer: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(answer)))
        except ValueError:
            return False

    return check


def matches(pattern: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda answer: compiled.fullmatch(answer) is not None


#: Name, kind, guide, and whether an answer follows it.
CASES: list[tuple[str, str, str, Check]] = [
    *((name, "json_schema", json.dumps(s), is_valid(s)) for name, s in SCHEMAS.items()),
    *((pattern, "regex", pattern, matches(pattern)) for pattern in REGEXES),
    *((grammar, "ebnf_grammar", grammar, matches(rx)) for grammar, rx in GRAMMARS),
]


def body(case: tuple[str, str, str, Check], *, guided: bool = True) -> dict[str, Any]:
    """A request for a sampled answer of *case*; if not *guided*, the question has the guide."""
    name, kind, guide, _ = case
    question = f"Give one short example of: {name[:60]}"
    asked = {"temperature": 1.0, "seed": 7, "max_tokens": 96}
    if guided:
        asked |= {"guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    else:
        question += f". Answer only what follows this {kind}: {guide}"
    return {"messages": json.dumps([{"role": "user", "content": question}]), **asked}
