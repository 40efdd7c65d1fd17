"""The documents that the page links, as the server has them: the guide, every setting, and samples for programs.

    GET  /docs         all of serving, with samples in Bash, Python and JavaScript
    GET  /docs/PATH    guide.md, settings.md, serving.md as pages, and the guide's figures

A wheel has them in the package; in a clone they are in `docs`.
"""

import functools
import html
import posixpath
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ssd1b_jax.server import page
from ssd1b_jax.server.markdown import to_html

NAMES = {"guide.md": "Guide", "settings.md": "Settings", "serving.md": "For programs"}
FIRST = "serving.md"
FIGURES = "guide/"


def routes() -> list[Route]:
    return [Route("/docs", first), Route("/docs/{path:path}", show)]


async def first(request: HTTPRequest) -> Response:
    return RedirectResponse(f"docs/{FIRST}")  # relative, for proxies


async def show(request: HTTPRequest) -> Response:
    if not request.path_params["path"]:
        return RedirectResponse(FIRST)
    file = files().get(request.path_params["path"])
    if file is None:
        raise HTTPException(404, "there is no such document: see /docs")
    return page.answer(request, file)


@functools.cache
def files() -> dict[str, page.File]:
    """Documents as HTML, and figures, by their paths below /docs/."""
    folder = _folder()
    figures = [f"{FIGURES}{file.name}" for file in (folder / FIGURES).iterdir() if file.name.endswith((".png", ".jpg"))]
    written = {name: page.as_file("a.html", _document(folder, name, {*NAMES, *figures}).encode()) for name in NAMES}
    return written | {path: page.as_file(path, (folder / path).read_bytes()) for path in figures}


def _folder() -> Traversable:
    inside = resources.files("ssd1b_jax") / "server" / "docs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "docs"


def _document(folder: Traversable, name: str, known: set[str]) -> str:
    def resolve(target: str) -> str | None:
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return target
        path = posixpath.normpath(path)
        return (f"{path}#{anchor}" if anchor else path) if path in known else None

    body = to_html((folder / name).read_text(encoding="utf-8"), resolve)
    links = [
        f'<a href="{path}"{" aria-current=page" if path == name else ""}>{html.escape(title)}</a>'
        for path, title in NAMES.items()
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ssd1b: {html.escape(NAMES[name])}</title>
<link rel="icon" href="../page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="../page/style.css">
<link rel="stylesheet" href="../page/docs.css">
</head>
<body class="document">
<nav><a href="../">ssd1b</a> {" ".join(links)}</nav>
<main>
{body}
</main>
</body>
</html>
"""
