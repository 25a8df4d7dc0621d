"""The page that problems link to (RFC 8555 §6.6, `Link: rel="help"`): what each type means, and what to do.

Rule 1: it is `docs/problems.md`, which the wheel carries; there is no second text.
Rule 2: it says the same to everybody, and nothing of this CA.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import jinja2
from aiohttp import web

from acmeca import resources
from acmeca.acme.problem import ProblemType
from acmeca.urls import Paths, Urls
from acmeca.web.markdown import Document, parse_document
from acmeca.web.pages import build_page

_SOURCE: Final = "problems.md"


def read_problems() -> Document:
    """The document. Raises ValueError when it is not written as `web/markdown.py` reads it, OSError when it is not there."""
    return parse_document((resources.find("docs") / _SOURCE).read_text(encoding="utf-8"))


def help_links(urls: Urls) -> Mapping[ProblemType, str]:
    """The `Link` header of a problem answer, by its type."""
    return MappingProxyType({type_: f'<{urls.problem(type_.value)}>;rel="help"' for type_ in ProblemType})


def add_problem_page(app: web.Application) -> None:
    """Serve the page at `Paths.PROBLEMS`, for GET and HEAD. The stylesheet is the front page's.

    It is made here and now: a broken document or template stops the start, not the first visitor.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.find("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    context = {"page": read_problems(), "stylesheet": Paths.STYLESHEET, "front_page": Paths.FRONT_PAGE}
    body = environment.get_template("problems.html").render(context).encode()

    async def show(request: web.Request) -> web.Response:
        return build_page(request, body, content_type="text/html")

    app.router.add_get(Paths.PROBLEMS, show)
