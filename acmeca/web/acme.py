"""The resources of RFC 8555 §7 over HTTP. A handler verifies, calls a service, and renders; it decides nothing.

Rule 1: the only thing read from a request besides its body is its path (and, for newAccount's limit, the address that it came
from: never `X-Forwarded-For`, which anybody can write); the URL that a signature has to cover is built
from the configured base (RULES §1, step 6).
Rule 2: `Retry-After` is in whole seconds and small (some clients understand nothing else).
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from acmeca.acme import payloads
from acmeca.acme.jws import is_post_as_get
from acmeca.acme.key_change import verify_key_change
from acmeca.acme.objects import Authorization, Order, dump_json
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AuthorizationStatus, OrderStatus
from acmeca.service.requests import AccountRequest
from acmeca.service.services import Services
from acmeca.urls import Paths

MAX_BODY: Final = 64 * 1024  # RULES §1, step 1
_BODY_SECONDS: Final = 30.0
_RETRY_AFTER: Final = {"Retry-After": "1"}
_MAX_INFO_AGE: Final = 300  # seconds


class AcmeResources:
    """Handlers for every resource of the directory and behind it. `meta` is what the directory says of this CA (§7.1.1)."""

    def __init__(self, services: Services, *, meta: Mapping[str, object]) -> None:
        self._services = services
        self._urls = services.urls
        # §7.1.1: "If the ACME server does not implement pre-authorization …, it MUST omit the "newAuthz" field"
        new_authz = {"newAuthz": self._urls.new_authz} if services.orders.offers_pre_authorization else {}
        self._directory = dump_json(
            {
                "newNonce": self._urls.new_nonce,
                "newAccount": self._urls.new_account,
                "newOrder": self._urls.new_order,
                **new_authz,
                "revokeCert": self._urls.revoke_cert,
                "keyChange": self._urls.key_change,
                "renewalInfo": self._urls.renewal_info,
                "meta": meta,
            }
        )

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get(Paths.DIRECTORY, self.directory)
        app.router.add_post(Paths.DIRECTORY, self.directory_by_post)
        app.router.add_get(Paths.NEW_NONCE, self.new_nonce)  # HEAD comes with it
        app.router.add_post(Paths.NEW_NONCE, self.new_nonce_by_post)
        app.router.add_post(Paths.NEW_ACCOUNT, self.new_account)
        app.router.add_post(Paths.ACCOUNT, self.account)
        app.router.add_post(Paths.ACCOUNT_ORDERS, self.account_orders)
        app.router.add_post(Paths.KEY_CHANGE, self.key_change)
        app.router.add_post(Paths.NEW_ORDER, self.new_order)
        if self._services.orders.offers_pre_authorization:
            app.router.add_post(Paths.NEW_AUTHZ, self.new_authz)
        app.router.add_post(Paths.ORDER, self.order)
        app.router.add_post(Paths.FINALIZE, self.finalize)
        app.router.add_post(Paths.AUTHORIZATION, self.authorization)
        app.router.add_post(Paths.CHALLENGE, self.challenge)
        app.router.add_post(Paths.CERTIFICATE, self.certificate)
        app.router.add_post(Paths.ALTERNATE, self.certificate)
        app.router.add_post(Paths.REVOKE_CERT, self.revoke_cert)
        app.router.add_get(Paths.RENEWAL_INFO, self.renewal_info)

    # --- §7.1.1, §7.2 -------------------------------------------------------------------------------------------

    async def directory(self, _: web.Request) -> web.Response:
        return web.Response(body=self._directory, content_type="application/json")

    async def directory_by_post(self, request: web.Request) -> web.Response:
        """§6.3: "The server MUST allow GET requests for the directory and newNonce resources … in addition to POST-as-GET"."""
        await self._read(request, self._urls.directory)
        return await self.directory(request)

    async def new_nonce(self, request: web.Request) -> web.Response:
        """§7.2: 200 for HEAD, 204 for GET, and "Cache-Control: no-store" so that nobody replays a nonce from a cache."""
        return web.Response(
            status=200 if request.method == hdrs.METH_HEAD else 204,
            headers={"Replay-Nonce": await self._services.nonces.mint(), "Cache-Control": "no-store"},
        )

    async def new_nonce_by_post(self, request: web.Request) -> web.Response:
        await self._read(request, self._urls.new_nonce)
        return web.Response(status=204)  # the middleware adds the nonce, as to every answer to a POST

    # --- §7.3 ---------------------------------------------------------------------------------------------------

    async def new_account(self, request: web.Request) -> web.Response:
        sender = await self._services.requests.by_new_key(await _body(request), url=self._urls.new_account)
        registration = await self._services.accounts.new_account(sender.key, sender.payload, address=request.remote)
        account = registration.account
        document = account.to_json(self._urls)
        if registration.external_account_binding is not None:
            # §7.3.4: "The account object the CA returns MUST include an "externalAccountBinding" field with the same value as the
            # field in the request."
            document["externalAccountBinding"] = registration.external_account_binding
        return _json(
            document,
            status=201 if registration.is_new else 200,  # §7.3.1: 200 and the URL for a key that has an account
            headers={"Location": self._urls.account(account.id)},
        )

    async def account(self, request: web.Request) -> web.Response:
        account_id = request.match_info["account_id"]
        sender = await self._by_account(request, self._urls.account(account_id))
        _require_own(sender, account_id)
        account = sender.account
        if not is_post_as_get(sender.payload):
            account = await self._services.accounts.update(account, payloads.parse_account_update(sender.payload))
        return _json(account.to_json(self._urls))

    async def account_orders(self, request: web.Request) -> web.Response:
        """§7.1.2.1, a page at a time with `Link: rel="next"`."""
        account_id = request.match_info["account_id"]
        cursor = request.query.get("cursor")
        sender = await self._read(request, self._urls.account_orders(account_id, cursor))
        _require_own(sender, account_id)
        page = await self._services.orders.page(sender.account, cursor)
        response = _json({"orders": [self._urls.order(id_) for id_ in page.order_ids]})
        if page.cursor is not None:
            response.headers.add("Link", f'<{self._urls.account_orders(account_id, page.cursor)}>;rel="next"')
        return response

    async def key_change(self, request: web.Request) -> web.Response:
        sender = await self._by_account(request, self._urls.key_change)
        change = verify_key_change(sender.payload, url=self._urls.key_change)
        account = await self._services.accounts.change_key(sender.account, change)
        return _json(account.to_json(self._urls))

    # --- §7.4 ---------------------------------------------------------------------------------------------------

    async def new_order(self, request: web.Request) -> web.Response:
        sender = await self._by_account(request, self._urls.new_order)
        order = await self._services.orders.new_order(sender.account, payloads.parse_new_order(sender.payload))
        return self._order(order, status=201)

    async def order(self, request: web.Request) -> web.Response:
        order_id = request.match_info["order_id"]
        sender = await self._read(request, self._urls.order(order_id))
        return self._order(await self._services.orders.order(sender.account, order_id))

    async def finalize(self, request: web.Request) -> web.Response:
        order_id = request.match_info["order_id"]
        sender = await self._by_account(request, self._urls.finalize(order_id))
        csr = payloads.parse_finalize(sender.payload)
        return self._order(await self._services.orders.finalize(sender.account, order_id, csr.csr_der))

    async def certificate(self, request: web.Request) -> web.Response:
        """§7.4.2. Each chain is a resource that names the others."""
        certificate_id, chain_id = request.match_info["certificate_id"], request.match_info.get("chain_id")
        sender = await self._read(request, self._urls.certificate(certificate_id, chain_id))
        download = await self._services.certificates.download(sender.account, certificate_id, chain_id)
        response = web.Response(body=download.pem, content_type="application/pem-certificate-chain")
        for alternate in download.alternates:
            response.headers.add("Link", f'<{self._urls.certificate(certificate_id, alternate)}>;rel="alternate"')
        return response

    async def new_authz(self, request: web.Request) -> web.Response:
        """§7.4.1: "returns a 201 (Created) response with the authorization URL in the Location header field"."""
        sender = await self._by_account(request, self._urls.new_authz)
        identifier = payloads.parse_new_authorization(sender.payload).identifier
        authorization = await self._services.orders.pre_authorize(sender.account, identifier)
        return _json(
            authorization.to_json(self._urls),
            status=201,
            headers={"Location": self._urls.authorization(authorization.id)},
        )

    # --- §7.5 ---------------------------------------------------------------------------------------------------

    async def authorization(self, request: web.Request) -> web.Response:
        authorization_id = request.match_info["authorization_id"]
        sender = await self._by_account(request, self._urls.authorization(authorization_id))
        authorization = await self._services.challenges.authorization(sender.account, authorization_id)
        if not is_post_as_get(sender.payload):
            update = payloads.parse_authorization_update(sender.payload)
            if update.deactivate:
                authorization = await self._services.challenges.deactivate(authorization)
        headers = _RETRY_AFTER if authorization.status is AuthorizationStatus.PENDING else None
        return _json(authorization.to_json(self._urls), headers=headers)

    async def challenge(self, request: web.Request) -> web.Response:
        authorization_id = request.match_info["authorization_id"]
        type_ = request.match_info["challenge_type"]
        sender = await self._by_account(request, self._urls.challenge(authorization_id, type_))
        if is_post_as_get(sender.payload):
            authorization = await self._services.challenges.challenge(sender.account, authorization_id, type_)
        else:
            payloads.parse_challenge_response(sender.payload)
            authorization = await self._services.challenges.respond(sender.account, authorization_id, type_)
        return self._challenge(authorization, type_)

    # --- §7.6 ---------------------------------------------------------------------------------------------------

    async def revoke_cert(self, request: web.Request) -> web.Response:
        sender = await self._services.requests.by_account_or_key(await _body(request), url=self._urls.revoke_cert)
        await self._services.certificates.revoke_for_client(sender, payloads.parse_revocation(sender.payload))
        return web.Response()

    # --- RFC 9773 -----------------------------------------------------------------------------------------------

    async def renewal_info(self, request: web.Request) -> web.Response:
        """§4.2, by "unauthenticated GET requests" (§6): caches may keep it, but not for so long that an operator's word is late."""
        info = await self._services.renewals.renewal_info(request.match_info["unique_identifier"])
        max_age = min(info.retry_after, _MAX_INFO_AGE)
        headers = {"Retry-After": str(info.retry_after), "Cache-Control": f"max-age={max_age}, public"}
        return _json(info.to_json(), headers=headers)

    # --- common -------------------------------------------------------------------------------------------------

    async def _by_account(self, request: web.Request, url: str) -> AccountRequest:
        return await self._services.requests.by_account(await _body(request), url=url)

    async def _read(self, request: web.Request, url: str) -> AccountRequest:
        """A POST-as-GET (§6.3): signed by an account, with an empty payload."""
        sender = await self._by_account(request, url)
        if not is_post_as_get(sender.payload):
            raise Problem(
                ProblemType.MALFORMED, 'this resource is read by POST-as-GET: the payload has to be "" (RFC 8555 §6.3)'
            )
        return sender

    def _order(self, order: Order, *, status: int = 200) -> web.Response:
        headers = {"Location": self._urls.order(order.id)}
        if status == 200 and order.status in {OrderStatus.PENDING, OrderStatus.PROCESSING}:
            headers |= _RETRY_AFTER  # whoever reads an order that moves by itself, waits for it
        return _json(order.to_json(self._urls), status=status, headers=headers)

    def _challenge(self, authorization: Authorization, type_: str) -> web.Response:
        challenge = authorization.challenge(type_)
        if challenge is None:  # the service has refused it before
            raise Problem(ProblemType.MALFORMED, "there is no such challenge", status=404)
        response = _json(challenge.to_json(self._urls.challenge(authorization.id, type_)), headers=_RETRY_AFTER)
        # §7.5.1: "the server MUST provide … a Link header with relation "up" to the authorization" in its example; certbot
        # refuses an answer without it.
        response.headers.add("Link", f'<{self._urls.authorization(authorization.id)}>;rel="up"')
        return response


async def _body(request: web.Request) -> bytes:
    """The request's bytes, if their headers say what RFC 8555 §6.2 asks for."""
    if request.headers.get(hdrs.CONTENT_TYPE, "").lower() != "application/jose+json":
        raise Problem(ProblemType.MALFORMED, 'the Content-Type has to be exactly "application/jose+json"', status=415)
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(ProblemType.MALFORMED, "send the body as it is, without Content-Encoding", status=415)
    if (
        request.content.is_eof()
    ):  # nearly every body: it came with its header, and a timer would cost more than to read it
        body = request.content.read_nowait()
        if len(body) > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY)
        return body
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise Problem(
            ProblemType.MALFORMED, f"the body did not arrive within {_BODY_SECONDS:g} s", status=408
        ) from None


def _json(document: dict[str, object], *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=dump_json(document), content_type="application/json", headers=headers)


def _require_own(sender: AccountRequest, account_id: str) -> None:
    if sender.account.id != account_id:
        raise Problem(ProblemType.MALFORMED, "there is no such account", status=404)
