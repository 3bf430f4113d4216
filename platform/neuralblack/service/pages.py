"""The files of the page, each at its address."""

import asyncio
import gzip
from importlib import resources

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from neuralblack.service.example_slices import EXAMPLES, draw_example

SCRIPTS = (
    "answers",
    "app",
    "card",
    "confidence",
    "copy",
    "door",
    "elements",
    "examples",
    "feedback",
    "limits",
    "mark",
    "progress",
    "server",
    "several",
    "shortcuts",
    "slice",
    "study",
    "turn",
    "viewer",
    "visit",
)
PAGE = {  # address -> file in page/, media type
    "/": ("index.html", "text/html; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def add_page(app: FastAPI) -> None:
    """Serve the page from memory; it is open to everybody and knows nothing."""
    page = resources.files("neuralblack.service") / "page"
    for address, (file, kind) in PAGE.items():
        _add_file(app, address, page.joinpath(file).read_bytes(), kind)
    for name in EXAMPLES:
        _add_example(app, name)


def _add_file(app: FastAPI, address: str, content: bytes, kind: str) -> None:
    packed = gzip.compress(content, mtime=0)

    async def file(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(content, media_type=kind, headers=headers)
        return Response(packed, media_type=kind, headers=headers | {"Content-Encoding": "gzip"})

    app.add_api_route(address, file, methods=["GET", "HEAD"], include_in_schema=False)


def _add_example(app: FastAPI, name: str) -> None:
    async def example() -> Response:
        picture = await asyncio.to_thread(draw_example, name)  # answers go on beside it
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "max-age=86400"})

    app.add_api_route(f"/examples/{name}.jpg", example, methods=["GET", "HEAD"], include_in_schema=False)
