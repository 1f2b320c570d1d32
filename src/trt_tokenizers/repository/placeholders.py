"""Fill the ``${placeholders}`` of a config.pbtxt. Needs only Python's standard library.

A value inside quotes may be any string. A value outside quotes must be a number or a word, so that
it cannot end its field and start another one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.nvidia_settings import NVIDIA_SETTINGS, normalized
from trt_tokenizers.repository.pbtxt import escaped, parse_config
from trt_tokenizers.settings import PLACEHOLDER, nearest

#: Placeholders outside quotes that NVIDIA's fill_template sets to 0 if they get no value.
_ZERO = ("max_queue_size", "max_queue_delay_microseconds")
_INVALID = re.compile(r"\$\{(?!\w+\}).{0,18}")
# A word or a number. The text format reads a number with a leading 0 as octal, so it is refused.
_BARE = re.compile(r"0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]+|[A-Za-z_][A-Za-z0-9_]*")


def fill(text: str, values: Mapping[str, str], where: str, *, keep: bool = False) -> str:
    """Replace every ``${name}`` of a config.pbtxt.

    A name without a value becomes empty inside quotes. Outside quotes, where an empty value would
    be invalid, it becomes the setting's default.

    Args:
        where: the file, for errors.
        keep: leave each ``${name}`` without an entry in *values*.

    Raises:
        RepositoryError: a value has the wrong type, or the result is not a valid model
            configuration. The message names *where* and the line.
    """
    if invalid := _INVALID.search(text):
        raise RepositoryError(
            f"{where}:{_line(invalid)}: {invalid[0]!r} is not a placeholder; a "
            "placeholder's name has only letters, digits and _; correct the file"
        )
    parts = []
    at = 0
    for match, quote in _placeholders(text):
        name, place = match[1], f"{where}:{_line(match)}"
        if keep and name not in values:
            continue
        value = values.get(name, "")
        setting = NVIDIA_SETTINGS.get(name)
        if setting is not None and (problem := setting.problem(value)):
            raise RepositoryError(f"{place}: {problem}")
        if PLACEHOLDER.fullmatch(value):
            raise RepositoryError(f"{place}: {name} is {value!r}, a placeholder; give a value")
        value = normalized(name, value)
        if not quote:
            value = (value or (setting.default if setting else "")).strip()
            if not _BARE.fullmatch(value):
                what = f"is {value!r}" if value else "is empty"
                raise RepositoryError(
                    f"{place}: {name} {what}, outside quotes; give a number, true or false, or a "
                    "name"
                )
        parts += [text[at : match.start()], escaped(value)]
        at = match.end()
    filled = "".join([*parts, text[at:]])
    if keep and any(bare_placeholders(filled)):
        return filled
    try:
        with contextlib.suppress(ModuleNotFoundError):  # scripts/fill_template.py warns
            parse_config(filled)
    except ValueError as error:
        raise RepositoryError(f"{where}: {error}; correct the value on that line") from None
    return filled


def _placeholders(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each placeholder and the quote around it: ``"``, ``'``, ``#`` in a comment, or empty."""
    quote = ""
    token = re.compile(r'\$\{(\w+)\}|\\.|["\'#\n]', re.DOTALL)
    for match in token.finditer(text):
        found = match[0]
        if match[1]:
            yield match, quote
        elif quote:
            # A string ends at the line's end at the latest; the parser reports the missing quote.
            if found == "\n" or (found == quote and quote != "#"):
                quote = ""
        elif found in ('"', "'", "#"):
            quote = found


def bare_placeholders(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of each placeholder outside quotes and comments: Triton refuses such a file.

    An unfilled placeholder inside quotes means "not set", as in NVIDIA's models.
    """
    for match, quote in _placeholders(text):
        if not quote:
            yield _line(match), match[1]


def _line(match: re.Match[str]) -> int:
    return match.string.count("\n", 0, match.start()) + 1


def fill_template(
    text: str, substitutions: str, where: str, note: Callable[[str], None] = lambda line: None
) -> str:
    """`fill` with ``key:value,key:value``, the syntax of the command fill_template.

    The first ``:`` of a pair separates key and value. A comma inside a value is written ``\\,``;
    ``\\:`` and ``\\\\`` also mean ``:`` and ``\\``. Any other backslash is literal.

    As with NVIDIA's script, a placeholder without a value stays, and a key that only other
    templates have is ignored.

    Args:
        note: receives one line for each of these two cases.

    Raises:
        RepositoryError: a pair has no ``:``, a key has two values or is unknown, or a value breaks
            the file.
    """
    values = parse_substitutions(substitutions)
    names = dict.fromkeys(PLACEHOLDER.findall(text))
    ignored = [key for key in values if key not in names]
    for key in ignored:
        if key not in NVIDIA_SETTINGS:
            raise RepositoryError(
                f"{where} has no placeholder {key!r}{nearest(key, names)}; remove it"
            )
    if ignored:
        note(f"{where} has no placeholder {', '.join(ignored)}; ignored")
    filled = fill(text, {**dict.fromkeys(_ZERO, "0"), **values}, where, keep=True)
    bare = dict.fromkeys(name for _, name in bare_placeholders(filled))
    if bare:
        note(f"{where}: fill {', '.join(bare)} as well; Triton cannot read the file before")
    if unset := set(PLACEHOLDER.findall(filled)).difference(bare):
        note(f"{where}: {len(unset)} settings without a value have their defaults")
    return filled


def parse_substitutions(substitutions: str) -> dict[str, str]:
    """Key -> value of ``key:value,key:value``; see `fill_template`.

    Raises:
        RepositoryError: a pair has no ``:``, or a key has two values.
    """
    values: dict[str, str] = {}
    for pair in re.findall(r"(?:\\.|[^,\\]|\\$)+", substitutions, re.DOTALL):
        if not pair.strip():
            continue
        key, separator, value = pair.partition(":")
        if not separator:
            raise RepositoryError(
                f"{pair.strip()!r} is not key:value; write a comma in a value as \\,"
            )
        key, value = key.strip(), re.sub(r"\\([,:\\])", r"\1", value)
        if values.setdefault(key, value) != value:
            raise RepositoryError(
                f"{key!r} is given twice, as {values[key]!r} and as {value!r}; give it once"
            )
    return values
