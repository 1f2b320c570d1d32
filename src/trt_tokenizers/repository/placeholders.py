"""Fill the ``${placeholders}`` of a config.pbtxt. Needs nothing but Python.

Values inside quotes may be any string. Outside they are a number, a word or true and false, so
that no value can end its field and begin another.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.nvidia_settings import UPSTREAM
from trt_tokenizers.repository.pbtxt import escaped, parse_config
from trt_tokenizers.settings import nearest

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
# Numbers without a leading 0, which the text format reads as octal, and words.
_BARE = re.compile(r"0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]+|[A-Za-z_][A-Za-z0-9_]*")


def fill(
    text: str,
    values: Mapping[str, str],
    where: str,
    *,
    parse: Callable[[str], object] = parse_config,
) -> str:
    """Replace every ``${name}`` of a config.pbtxt; a name without a value becomes empty, or its
    default where an empty one would not be valid: outside quotes.

    Args:
        where: the file, for errors.
        parse: raises ValueError where the result is no configuration of Triton's.

    Raises:
        RepositoryError: a value is not of its type, or the result is no valid model
            configuration; names *where* and line.
    """
    parts = []
    at = 0
    for match, quote in _placeholders(text):
        name = match[1]
        value = values.get(name, "")
        known = UPSTREAM.get(name)
        if known is not None and (problem := known.problem(value)):
            raise RepositoryError(f"{_place(where, text, match.start())}: {problem}")
        if "${" in value:
            raise RepositoryError(
                f"{_place(where, text, match.start())}: {name} is {value!r}, which holds a "
                "placeholder; write the value out"
            )
        if not quote:
            value = _bare(value or (known.default if known else ""), name, where, text, match)
        parts += [text[at : match.start()], escaped(value)]
        at = match.end()
    filled = "".join([*parts, text[at:]])
    if (left := filled.find("${")) >= 0:
        raise RepositoryError(
            f"{_place(where, filled, left)}: {filled[left : left + 20].splitlines()[0]!r} is no "
            "placeholder: their names are letters, digits and _; correct the file"
        )
    try:
        parse(filled)
    except ValueError as error:
        raise RepositoryError(f"{where}: {error}; correct the value on that line") from None
    return filled


def _bare(value: str, name: str, where: str, text: str, match: re.Match[str]) -> str:
    value = value.strip()
    if not _BARE.fullmatch(value):
        what = f"is {value!r}" if value else "is empty"
        raise RepositoryError(
            f"{_place(where, text, match.start())}: {name} {what}, and stands outside quotes; "
            "give a number, true or false, or a name"
        )
    return value


def _placeholders(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each placeholder with the quote it stands in: ``"``, ``'``, ``#`` in a comment, or none."""
    quote = ""
    token = re.compile(r'\$\{(\w+)\}|\\.|["\'#\n]', re.DOTALL)
    for match in token.finditer(text):
        found = match[0]
        if match[1]:
            yield match, quote
        elif quote:
            # No string goes over lines: a broken one is for the parser to tell.
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
    """`fill` with ``key:value,key:value``, as the command fill_template takes it.

    The first ``:`` of a pair separates; a comma inside a value is written ``\\,``. ``\\:`` and
    ``\\\\`` mean ``:`` and ``\\`` as well; before anything else a backslash is itself.

    Raises:
        RepositoryError: a pair without ``:``, a key that is given twice or that the file does not
            have, a placeholder that no pair fills, or a value that breaks the file.
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
            f"{where} would keep {', '.join(f'${{{name}}}' for name in left)}; "
            f"give each a value, if only an empty one: {left[0]}:"
        )
    return fill(text, values, where, parse=parse)


def _pairs(substitutions: str) -> Iterator[tuple[str, str]]:
    for pair in re.findall(r"(?:\\.|[^,\\]|\\$)+", substitutions, re.DOTALL):
        if not pair.strip():
            continue
        key, separator, value = pair.partition(":")
        if not separator:
            raise RepositoryError(
                f"{pair.strip()!r} is no key:value; write a comma in a value as \\,"
            )
        yield key.strip(), re.sub(r"\\([,:\\])", r"\1", value)


def _unknown(key: str, names: list[str]) -> str:
    known = UPSTREAM.get(key)
    near = nearest(key, names)
    if near or known is None:
        return f"{key!r}{near}; leave it out"
    return f"{key!r}, which is one of {', '.join(known.models)} in other versions; leave it out"


def fill_file(
    file: Path,
    substitutions: str,
    *,
    in_place: bool,
    parse: Callable[[str], object] = parse_config,
) -> str:
    """`fill_template` of a file; *in_place* puts the result in its place, all or nothing.

    Raises:
        RepositoryError: as `fill_template`; or the file cannot be read or replaced.
    """
    try:
        filled = fill_template(
            file.read_text(encoding="utf-8"), substitutions, str(file), parse=parse
        )
        if in_place:
            file = file.resolve()  # a link stays one
            staged = file.with_name(f".{file.name}.{os.getpid()}")
            try:
                staged.write_text(filled, encoding="utf-8")
                shutil.copymode(file, staged)
                staged.replace(file)
            finally:
                staged.unlink(missing_ok=True)
    except (OSError, UnicodeError) as error:
        raise RepositoryError(f"{file} cannot be filled: {error}; mend the file") from None
    return filled
