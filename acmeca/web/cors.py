"""Clients that run in a web page of another origin (RFC 8555 §6.1; the Fetch standard, "HTTP CORS protocol").

Rule 1: everybody may read what ACME answers: `Access-Control-Allow-Origin: *`, never with credentials. A page can do no more by
it than its own account key can.
Rule 2: a preflight says what the router knows; it takes no handler, no nonce and no store.
Rule 3: a page of the public Internet is not let into a private network: `Access-Control-Allow-Private-Network` is never sent.
"""

from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

HEADERS: Final = CIMultiDictProxy(
    CIMultiDict(
        {
            # §6.1: "Such servers SHOULD set the Access-Control-Allow-Origin header field to the value "*"."
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
            # What scripts may read besides the safelisted ones: all that ACME tells in header fields.
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: "Link, Location, Replay-Nonce, Retry-After",
        }
    )
)
"""What every answer of ACME has."""

_MAX_AGE: Final = "86400"  # seconds; browsers cut it to what they like


def preflight(request: web.Request) -> web.Response | None:
    """The answer to a browser that asks whether it may send what a page wants to; None for every other request.

    It says which methods the resource has; whether the one asked for is among them, the browser sees.
    """
    if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
        return None
    refused = request.match_info.http_exception
    if not isinstance(refused, web.HTTPMethodNotAllowed):  # nothing is at this URL
        return None
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(refused.allowed_methods)),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: hdrs.CONTENT_TYPE,  # application/jose+json is on no safelist
            hdrs.ACCESS_CONTROL_MAX_AGE: _MAX_AGE,
        },
    )
