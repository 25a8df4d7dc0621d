"""OCSP, CRLs and issuer certificates over plain http (RFC 6960 appendix A, RFC 9919 §7, RFC 5280 §4.2.1.13 and §4.2.2.1).

Rule 1: a GET for OCSP is read from the raw path: base64 holds `/`, `//` and `+`, which frameworks merge or decode, and
clients percent-encode them or not.
Rule 2: a conditional request is answered by the ETag alone. Last-Modified has whole seconds, and a certificate can be
revoked within the second in which its last answer was signed.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
from datetime import datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from acmeca.errors import NotFound
from acmeca.quoting import quote_input
from acmeca.service.issuers import to_pem
from acmeca.service.services import Services
from acmeca.service.status import OcspAnswer
from acmeca.urls import Paths
from acmeca.web.health import add_health

log = logging.getLogger(__name__)

_OCSP: Final = "application/ocsp-response"
_MAX_CRL_AGE: Final = 300  # seconds
_BODY_SECONDS: Final = 30.0


class StatusResources:
    """Handlers of the status listener."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(Paths.OCSP, self.ocsp_by_post)
        app.router.add_get(
            Paths.OCSP + "/{request:(?s:.*)}", self.ocsp_by_get
        )  # a newline in it is malformed, not missing
        app.router.add_get(Paths.CRL, self.crl)
        app.router.add_get(Paths.ISSUER_DER, self.issuer_der)
        app.router.add_get(Paths.ISSUER_PEM, self.issuer_pem)
        app.router.add_get(Paths.BUNDLE, self.bundle)
        app.router.add_get(Paths.ROOTS, self.roots)
        add_health(app, self._services.readiness)

    async def ocsp_by_post(self, request: web.Request) -> web.Response:
        """RFC 6960 §A.1: the body is the request. Its Content-Type is not looked at: there is nothing else it could be."""
        answer = await self._services.status.ocsp(request.match_info["issuer_id"], await _body(request))
        return self._ocsp(request, answer)

    async def ocsp_by_get(self, request: web.Request) -> web.Response:
        """RFC 6960 §A.1: `GET {url}/{url-encoding of base-64 encoding of the DER encoding of the OCSPRequest}`."""
        issuer_id = request.match_info["issuer_id"]
        answer = await self._services.status.ocsp(issuer_id, _decode_path(request.raw_path, issuer_id))
        return self._ocsp(request, answer)

    def _ocsp(self, request: web.Request, answer: OcspAnswer) -> web.Response:
        """RFC 9919 §7.2: what a cache may do with the answer."""
        if not answer.is_authoritative:
            return web.Response(body=answer.body, content_type=_OCSP, headers={"Cache-Control": "no-store"})
        if answer.is_private:  # it echoes a nonce: of use to whoever sent that, once
            return web.Response(body=answer.body, content_type=_OCSP, headers={"Cache-Control": "private, max-age=0"})
        max_age = answer.max_age(self._services.ambient.now())
        headers = {
            "Cache-Control": f"max-age={max_age}, public, no-transform, must-revalidate",
            "ETag": answer.etag,
            "Expires": _http_date(answer.next_update),
            "Last-Modified": _http_date(answer.this_update),
        }
        if request.method != hdrs.METH_POST and _matches(request, answer.etag):
            return web.Response(status=304, headers=headers)
        return web.Response(body=answer.body, content_type=_OCSP, headers=headers)

    async def crl(self, request: web.Request) -> web.Response:
        crl = await self._services.status.crl(request.match_info["issuer_id"])
        left = (crl.next_update - self._services.ambient.now()).total_seconds()
        headers = {
            "Cache-Control": f"max-age={max(0, min(_MAX_CRL_AGE, int(left)))}, public, no-transform, must-revalidate",
            "Expires": _http_date(crl.next_update),
            "Last-Modified": _http_date(crl.this_update),
        }
        return _conditional(request, crl.der, "application/pkix-crl", headers)

    async def issuer_der(self, request: web.Request) -> web.Response:
        return _conditional(request, self._certificate(request), "application/pkix-cert", _LONG_LIVED)

    async def issuer_pem(self, request: web.Request) -> web.Response:
        return _conditional(request, to_pem(self._certificate(request)), "application/x-pem-file", _LONG_LIVED)

    async def bundle(self, request: web.Request) -> web.Response:
        return _conditional(request, self._services.issuers.bundle_pem(), "application/x-pem-file", _SHORT_LIVED)

    async def roots(self, request: web.Request) -> web.Response:
        return _conditional(request, self._services.issuers.roots_pem(), "application/x-pem-file", _SHORT_LIVED)

    def _certificate(self, request: web.Request) -> bytes:
        issuer_id = request.match_info["issuer_id"]
        stored = self._services.issuers.stored(issuer_id)
        if stored is None:
            raise NotFound(f"there is no issuer {issuer_id}")
        return stored.issuer.certificate_der


_LONG_LIVED: Final = {"Cache-Control": "max-age=86400, public, no-transform"}  # a certificate never changes
_NOT_KEPT: Final = {"Cache-Control": "no-store"}
_SHORT_LIVED: Final = {"Cache-Control": "max-age=300, public, no-transform"}


@web.middleware
async def status_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what does not exist into 404 and what nobody foresaw into a bare 500."""
    try:
        return await handler(request)
    except NotFound:  # its text repeats what the client sent
        return web.Response(status=404, text="there is nothing at this URL\n", headers=_NOT_KEPT)
    except web.HTTPException as error:
        error.headers.update(_NOT_KEPT)  # a cache may keep a 404 or a 405 that says nothing about it (RFC 9110 §15.1)
        raise
    except Exception:
        log.exception("%s %s: unexpected failure", request.method, quote_input(request.raw_path))
        return web.Response(status=500, text="the server failed; its log says more\n")


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def _decode_path(raw_path: str, issuer_id: str) -> bytes:
    """The DER in the raw path of a GET, or no bytes when it holds no base64; the service calls those malformed."""
    _, _, encoded = raw_path.partition(f"/ocsp/{issuer_id}/")
    text = unquote_to_bytes(encoded.partition("?")[0])
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""


def _conditional(request: web.Request, body: bytes, content_type: str, headers: dict[str, str]) -> web.Response:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = headers | {"ETag": etag}
    if _matches(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=content_type, headers=headers)


def _matches(request: web.Request, etag: str) -> bool:
    """RFC 9110 §13.1.2, weak comparison. `etag` is quoted."""
    return any(f'"{tag.value}"' == etag or tag.value == "*" for tag in request.if_none_match or ())


def _http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)
