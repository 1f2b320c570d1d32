"""The page for trying a model: the files of the folder page, read at start-up."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

#: The page asks nothing but its own server, and nothing frames it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a browser asks with the ETag each time
}
_INDEX = "index.html"
PAGE = "/page/"  #: the paths of its other files begin with it


def page_routes() -> list[Route]:
    """The page at ``/``, and its other files."""
    folder = files("trt_tokenizers.openai").joinpath("page")
    return [_route(each.name, each.read_bytes()) for each in folder.iterdir()]


def _route(name: str, content: bytes) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "etag": tag}
    media_type = mimetypes.guess_type(name)[0]

    async def answer(http: Request) -> Response:
        known = http.headers.get("if-none-match", "").replace("W/", "").split(", ")
        if tag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return Route("/" if name == _INDEX else f"{PAGE}{name}", answer)
