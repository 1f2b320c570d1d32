"""How the page is served; tests/serving/test_page.py looks at the page itself."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from asgi import ScriptedTriton, app, ask

NAMES = sorted(each.name for each in files("trt_tokenizers.openai").joinpath("page").iterdir())
PATHS = ["/" if name == "index.html" else f"/page/{name}" for name in NAMES]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_is_served_with_its_tag_and_a_strict_policy(path: str) -> None:
    application = app(ScriptedTriton(), api_keys=("secret",))
    answer = ask(application, path)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    tag = answer.headers["etag"]
    again = ask(application, path, headers={"if-none-match": f'"x", {tag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask(application, path, headers={"if-none-match": '"x"'}).status == 200


def test_media_types() -> None:
    application = app(ScriptedTriton())
    types = {path: ask(application, path).headers["content-type"] for path in PATHS}
    assert types["/"].startswith("text/html; charset=utf-8")
    assert types["/page/main.js"].partition("/")[2].startswith("javascript")
    assert types["/page/page.css"].startswith("text/css")
    assert types["/page/icon.svg"] == "image/svg+xml"


def test_the_page_can_be_turned_off() -> None:
    application = app(ScriptedTriton(), page=False)
    assert ask(application, "/").status == 404
    assert ask(application, "/page/main.js").status == 404
    assert ask(application, "/v1/models").status == 200


@pytest.mark.parametrize("path", PATHS)
def test_no_file_names_another_host_or_makes_html_of_text(path: str) -> None:
    text = ask(app(ScriptedTriton()), path).body.decode()
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]+", text))
    assert addresses <= {"http://www.w3.org"}  # SVG's namespace
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
    assert " style=" not in text
