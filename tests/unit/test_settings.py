"""Strings become typed settings, and every error names the parameter."""

from __future__ import annotations

import dataclasses

import pytest

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import parse, setting


@dataclasses.dataclass(frozen=True)
class Example:
    name: str = setting(dataclasses.MISSING, "a required string")
    count: int = setting(3, "an int")
    share: float | None = setting(None, "an optional float")
    ids: tuple[int, ...] = setting((), "ints")


def test_values_get_the_types_of_their_fields() -> None:
    raw = {"name": "x", "count": "-7", "share": "0.5", "ids": "1, 2,3,"}
    assert parse(Example, raw, "here") == Example("x", -7, 0.5, (1, 2, 3))


def test_an_empty_value_selects_the_default() -> None:
    assert parse(Example, {"name": "x", "count": "", "share": ""}, "here") == Example("x")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "x", "cuont": "1"}, "unknown parameter 'cuont' (did you mean 'count'?); valid are"),
        ({"name": "${name}"}, "parameter 'name' still holds the placeholder '${name}'; give"),
        ({"name": ""}, "parameter 'name' has no value; set it"),
        ({"name": "x", "count": "1.5"}, "parameter 'count' is '1.5'; expected a whole number"),
        ({"name": "x", "share": "half"}, "parameter 'share' is 'half'; expected a number"),
        ({"name": "x", "share": "nan"}, "parameter 'share' is 'nan'; expected a number"),
        ({"name": "x", "share": "1e999"}, "parameter 'share' is '1e999'; expected a number"),
        ({"name": "x", "ids": "1,b"}, "parameter 'ids' is 'b'; expected a whole number"),
    ],
)
def test_errors_name_the_parameter(raw: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(Example, raw, "here")
    assert str(caught.value).startswith(f"here: {message}")
