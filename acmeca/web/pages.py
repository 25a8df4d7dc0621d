"""What every page for people has in common: strict headers, and an ETag.

Rule 1: no script, no inline style, nothing from elsewhere: the Content-Security-Policy says so.
"""

import hashlib
from typing import Final

from aiohttp import web

# CSP Level 3: whatever is not named falls back to `default-src 'none'`; base-uri, form-action and frame-ancestors do not
# fall back and are named. `data:` is for the icon in the page, so that no browser asks for /favicon.ico.
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # RFC 9111 §5.2.2: short, so that a new issuer or a new root shows within a minute.
    "Cache-Control": "public, max-age=60",
}


def build_page(request: web.Request, body: bytes, *, content_type: str) -> web.Response:
    """The body under a strong ETag, or 304 when the client has it (RFC 9110 §13.1.2 compares weakly)."""
    etag = hashlib.sha256(body).hexdigest()[:32]
    known = request.if_none_match or ()
    if any(candidate.value in {etag, "*"} for candidate in known):
        # RFC 9110 §15.4.5: a 304 "MUST generate" the ETag and Cache-Control that a 200 would have had.
        response = web.Response(status=304, headers=_SECURITY_HEADERS)
    else:
        response = web.Response(body=body, content_type=content_type, charset="utf-8", headers=_SECURITY_HEADERS)
    response.etag = etag
    return response
