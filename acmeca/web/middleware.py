"""What every ACME answer has in common: problems rendered, a nonce, links to the index and to help (RFC 8555 §6.5 to §6.7, §7.1).

Rule 1: this module alone turns an exception into a response. What nobody foresaw becomes `serverInternal` without detail
and is logged whole.
Rule 2: each `Link` is a header line of its own (dehydrated and acme.sh read line by line).
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from acmeca.acme.objects import dump_json
from acmeca.acme.problem import Problem, ProblemType
from acmeca.errors import Busy
from acmeca.quoting import quote_input
from acmeca.service.services import Services
from acmeca.storage.errors import StorageError
from acmeca.urls import ACME_PREFIX, Paths, Urls
from acmeca.web.cors import HEADERS, preflight
from acmeca.web.problem_page import help_links

log = logging.getLogger(__name__)

PROBLEM_JSON: Final = "application/problem+json"
SERVER_NAME: Final = "acmeca"  # without a version: it would only tell an attacker what to look up


def acme_middleware(services: Services, *, cors: bool) -> Middleware:
    """The middleware of the ACME listener. `cors` lets web pages of other origins use ACME."""
    index = f'<{services.urls.directory}>;rel="index"'
    render = partial(_rendered, help_links(services.urls))

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_cross_origin = cors and request.path.startswith(ACME_PREFIX)
        try:
            _require_no_nul(request)
            asked = preflight(request) if is_cross_origin else None
            response = await handler(request) if asked is None else asked
        except Problem as problem:
            response = render(problem)
            log.info("%s %s: %d %s", request.method, quote_input(request.raw_path), problem.status, problem)
        except web.HTTPException as error:
            response = render(_from_http(error))
        except Busy as busy:
            response = render(Problem(ProblemType.SERVER_INTERNAL, str(busy), status=503, headers={"Retry-After": "5"}))
        except StorageError:
            log.exception("%s %s: the store failed", request.method, quote_input(request.raw_path))
            detail = "the server cannot write now; nothing was changed, try again later"
            response = render(Problem(ProblemType.SERVER_INTERNAL, detail, status=503, headers={"Retry-After": "30"}))
        except Exception:
            log.exception("%s %s: unexpected failure", request.method, quote_input(request.raw_path))
            response = render(Problem(ProblemType.SERVER_INTERNAL, "the server failed; its log says more"))
        if request.method == "POST":
            # §6.5: "the server MUST include a Replay-Nonce header field in every successful response to a POST request and
            # SHOULD provide it in error responses as well."
            with suppress(StorageError):  # an answer that tells of an outage has none
                response.headers["Replay-Nonce"] = await services.nonces.mint()
            response.headers["Cache-Control"] = "no-store"
        if request.path != Paths.DIRECTORY:
            # §7.1: "The "index" link relation is present on all resources other than the directory"
            response.headers.add("Link", index)
        if is_cross_origin:
            response.headers.update(HEADERS)
        return response

    return middleware


def build_refusals(urls: Urls) -> Callable[[int, str], web.Response]:
    """What makes the problem document for a request that is refused before any handler sees it, for its framing."""
    links = help_links(urls)

    def refuse(status: int, reason: str) -> web.Response:
        return _rendered(links, Problem(ProblemType.MALFORMED, reason, status=status))

    return refuse


def _require_no_nul(request: web.Request) -> None:
    """There is nothing at such a path: no id has a NUL, and PostgreSQL fails to look for one."""
    if any("\0" in part for part in request.match_info.values()):
        raise web.HTTPNotFound


async def name_server(_: web.Request, response: web.StreamResponse) -> None:
    """A signal of each application: say who answers, and no version."""
    response.headers["Server"] = SERVER_NAME


def _rendered(links: Mapping[ProblemType, str], problem: Problem) -> web.Response:
    response = web.Response(
        status=problem.status,
        body=dump_json(problem.to_json()),
        content_type=PROBLEM_JSON,
        headers=dict(problem.headers),
    )
    # RFC 8555 §6.6: "the server MAY send one or multiple link relations in the Link header field pointing to documentation …
    # using the "help" link relation type"; we do with every problem.
    response.headers.add("Link", links[problem.type])
    return response


def _from_http(error: web.HTTPException) -> Problem:
    """What aiohttp refuses by itself: a path that is not ours, a method, a body that is too large."""
    detail = {
        404: "there is nothing at this URL; the directory lists what there is",
        405: "this resource takes another method; RFC 8555 reads resources by POST-as-GET (§6.3)",
        413: "the request body is larger than 64 KiB",
    }.get(error.status, error.reason)
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return Problem(ProblemType.MALFORMED, detail, status=error.status, headers=headers)
