"""Fill the ``${placeholders}`` of a config.pbtxt. Needs only Python's standard library.

A value inside quotes may be any string. A value outside quotes must be a number or a word, so that
it cannot end its field and start another one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.nvidia_settings import NVIDIA_SETTINGS, normalized
from trt_tokenizers.repository.pbtxt import escaped, parse_config
from trt_tokenizers.settings import nearest

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
# A word or a number. The text format reads a number with a leading 0 as octal, so it is refused.
_BARE = re.compile(r"0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]+|[A-Za-z_][A-Za-z0-9_]*")


def fill(
    text: str,
    values: Mapping[str, str],
    where: str,
    *,
    parse: Callable[[str], object] = parse_config,
) -> str:
    """Replace every ``${name}`` of a config.pbtxt.

    A name without a value becomes empty inside quotes. Outside quotes, where an empty value would
    be invalid, it becomes the setting's default.

    Args:
        where: the file, for errors.
        parse: raises ValueError if the result is not a Triton configuration.

    Raises:
        RepositoryError: a value has the wrong type, or the result is not a valid model
            configuration. The message names *where* and the line.
    """
    parts = []
    at = 0
    for match, quote in _placeholders(text):
        name, place = match[1], _place(where, text, match.start())
        value = values.get(name, "")
        setting = NVIDIA_SETTINGS.get(name)
        if setting is not None and (problem := setting.problem(value)):
            raise RepositoryError(f"{place}: {problem}")
        if "${" in value:
            raise RepositoryError(
                f"{place}: {name} is {value!r}, which holds a placeholder; write the value out"
            )
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
    if (left := filled.find("${")) >= 0:
        raise RepositoryError(
            f"{_place(where, filled, left)}: {filled[left : left + 20].splitlines()[0]!r} is not a "
            "placeholder; a placeholder's name has only letters, digits and _; correct the file"
        )
    try:
        parse(filled)
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


def _place(where: str, text: str, at: int) -> str:
    return f"{where}:{text.count(chr(10), 0, at) + 1}"


def fill_template(
    text: str,
    substitutions: str,
    where: str,
    *,
    parse: Callable[[str], object] = parse_config,
) -> str:
    """`fill` with ``key:value,key:value``, the syntax of the command fill_template.

    The first ``:`` of a pair separates key and value. A comma inside a value is written ``\\,``;
    ``\\:`` and ``\\\\`` also mean ``:`` and ``\\``. Any other backslash is literal.

    Raises:
        RepositoryError: a pair has no ``:``, a key has two values, the file lacks a key, a
            placeholder gets no value, or a value breaks the file.
    """
    values: dict[str, str] = {}
    for key, value in _pairs(substitutions):
        if values.get(key, value) != value:
            raise RepositoryError(
                f"{key!r} is given twice, as {values[key]!r} and as {value!r}; give it once"
            )
        values[key] = value
    names = dict.fromkeys(PLACEHOLDER.findall(text))
    for key in values:
        if key not in names:
            raise RepositoryError(f"{where} has no placeholder {_unknown(key, list(names))}")
    if left := [name for name in names if name not in values]:
        raise RepositoryError(
            f"{where} would keep {', '.join(f'${{{name}}}' for name in left)}; give each a value, "
            f"an empty one for its default: {left[0]}:"
        )
    return fill(text, values, where, parse=parse)


def _pairs(substitutions: str) -> Iterator[tuple[str, str]]:
    for pair in re.findall(r"(?:\\.|[^,\\]|\\$)+", substitutions, re.DOTALL):
        if not pair.strip():
            continue
        key, separator, value = pair.partition(":")
        if not separator:
            raise RepositoryError(
                f"{pair.strip()!r} is not key:value; write a comma in a value as \\,"
            )
        yield key.strip(), re.sub(r"\\([,:\\])", r"\1", value)


def _unknown(key: str, names: list[str]) -> str:
    setting = NVIDIA_SETTINGS.get(key)
    near = nearest(key, names)
    if near or setting is None:
        return f"{key!r}{near}; remove it"
    return f"{key!r}, which other versions have in {', '.join(setting.models)}; remove it"


def fill_file(
    file: Path,
    substitutions: str,
    *,
    in_place: bool,
    parse: Callable[[str], object] = parse_config,
) -> str:
    """`fill_template` for a file. With *in_place* the result replaces the file atomically.

    Raises:
        RepositoryError: as `fill_template`, or the file cannot be read or replaced.
    """
    try:
        filled = fill_template(
            file.read_text(encoding="utf-8"), substitutions, str(file), parse=parse
        )
        if in_place:
            file = file.resolve()  # keep a symbolic link
            staged = file.with_name(f".{file.name}.{os.getpid()}")
            try:
                staged.write_text(filled, encoding="utf-8")
                shutil.copymode(file, staged)
                staged.replace(file)
            finally:
                staged.unlink(missing_ok=True)
    except (OSError, UnicodeError) as error:
        raise RepositoryError(f"{file} cannot be filled: {error}; fix the file") from None
    return filled
