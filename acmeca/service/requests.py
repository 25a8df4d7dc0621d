"""Who sent this request? The order of RFC 8555 §6: envelope, account, signature, nonce; then, and only then, the payload.

Rule 1: a service takes an `AccountRequest` or a `KeyRequest`, never a body. Only this module makes them.
Rule 2: a nonce is spent after the signature was verified and before anything changes (RULES §1, step 7).
"""

from dataclasses import dataclass
from typing import Protocol

from acmeca.acme import jws
from acmeca.acme.jwk import PublicKey
from acmeca.acme.objects import Account
from acmeca.acme.problem import Problem, ProblemType
from acmeca.service.accounts import Accounts
from acmeca.urls import Urls


class Nonces(Protocol):
    """Mints and redeems for every process that clients may reach: what one minted is good at each, once in all."""

    async def mint(self) -> str:
        """A fresh nonce (§6.5)."""

    async def redeem(self, nonce: str) -> bool:
        """True the first time for a nonce of ours that is recent enough; False ever after and for all else."""


@dataclass(frozen=True, slots=True)
class AccountRequest:
    """A request signed by the key of a valid account. An empty `payload` is a POST-as-GET (§6.3)."""

    account: Account
    payload: bytes


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A request signed by a key that stands in it: a new account's, or a certificate's own."""

    key: PublicKey
    payload: bytes


class Requests:
    """Turns bodies into requests of known senders."""

    def __init__(self, *, accounts: Accounts, nonces: Nonces, urls: Urls) -> None:
        self._accounts = accounts
        self._nonces = nonces
        self._account_prefix = urls.account("")

    async def by_account(self, body: bytes, *, url: str) -> AccountRequest:
        """A request that has to be signed with a `kid` (§6.2: all but newAccount and, at times, revokeCert)."""
        request = jws.parse(body, url=url)
        if request.kid is None:
            raise Problem(
                ProblemType.MALFORMED, 'this resource takes requests signed by an account: send "kid", not "jwk"'
            )
        return await self._account_request(request, request.kid)

    async def by_new_key(self, body: bytes, *, url: str) -> KeyRequest:
        """A request that has to carry its key (§7.3)."""
        request = jws.parse(body, url=url)
        if request.jwk is None:
            raise Problem(
                ProblemType.MALFORMED, 'newAccount takes requests with the key in them: send "jwk", not "kid"'
            )
        return await self._key_request(request, request.jwk)

    async def by_account_or_key(self, body: bytes, *, url: str) -> AccountRequest | KeyRequest:
        """A request of either form (§7.6)."""
        request = jws.parse(body, url=url)
        if request.kid is not None:
            return await self._account_request(request, request.kid)
        if request.jwk is None:  # parse lets exactly one of the two through
            raise Problem(ProblemType.MALFORMED, 'the protected header needs either "kid" or "jwk"')
        return await self._key_request(request, request.jwk)

    async def _account_request(self, request: jws.UnverifiedRequest, kid: str) -> AccountRequest:
        # RULES §1, step 5: "kid must equal the account URL we gave, character for character".
        known = None
        if kid.startswith(self._account_prefix) and "\0" not in kid:  # PostgreSQL refuses to compare text with a NUL
            known = await self._accounts.known(kid[len(self._account_prefix) :])
        if known is None:
            raise Problem(
                ProblemType.ACCOUNT_DOES_NOT_EXIST, 'no account has the URL in "kid"; register with newAccount first'
            )
        verified = jws.verify(request, known.key)
        await self._redeem(request)
        refusal = known.refusal
        if refusal is not None:
            await self._accounts.note_refused(known.account, refusal.detail)
            raise refusal
        return AccountRequest(known.account, verified.payload)

    async def _key_request(self, request: jws.UnverifiedRequest, key: PublicKey) -> KeyRequest:
        verified = jws.verify(request, key)
        await self._redeem(request)
        return KeyRequest(key, verified.payload)

    async def _redeem(self, request: jws.UnverifiedRequest) -> None:
        if not await self._nonces.redeem(request.nonce):
            # §6.5: "the server MUST include a Replay-Nonce" with this answer; web/middleware.py does on all of them.
            raise Problem(ProblemType.BAD_NONCE, "the nonce was used before or is not ours; repeat with a fresh one")
