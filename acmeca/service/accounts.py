"""Accounts: newAccount, update, keyChange and deactivation (RFC 8555 §7.3), and who is behind a `kid`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from acmeca import audit
from acmeca.acme.jwk import PublicKey, load_jwk
from acmeca.acme.key_change import KeyChange, require_own
from acmeca.acme.objects import Account
from acmeca.acme.payloads import AccountUpdate, parse_new_account
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AccountStatus
from acmeca.pki.spki import encode_public_key
from acmeca.policy.keys import check_key
from acmeca.policy.limits import Taking
from acmeca.service.ambient import Ambient
from acmeca.service.limits import Limits
from acmeca.storage.errors import KeyRefusedError, KeyTakenError, StaleError
from acmeca.storage.keys import is_blocked
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.store import Store
from acmeca.urls import Urls

_KEPT_KEYS: Final = 10_000  # parsed, some 2 KiB each


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account with its key, parsed, and whether that key was blocked."""

    account: Account
    key: PublicKey
    is_blocked: bool


class Accounts:
    """The accounts of this server.

    An account is read afresh for each request, so that what any process did to it holds everywhere at once; only its key,
    which is costly to parse and changes with its text, is kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        urls: Urls,
        limits: Limits,
        ambient: Ambient,
        weak_keys: frozenset[bytes] = frozenset(),
    ) -> None:
        self._store = store
        self._urls = urls
        self._limits = limits
        self._weak_keys = weak_keys
        self._ambient = ambient
        self._load_key = lru_cache(maxsize=_KEPT_KEYS)(load_jwk)

    async def known(self, account_id: str) -> KnownAccount | None:
        """The account of this id, of whatever status, or None."""
        found = await self._store.accounts.with_block(account_id)
        if found is None:
            return None
        account, is_blocked = found
        return KnownAccount(account, self._load_key(account.jwk), is_blocked)

    async def new_account(self, key: PublicKey, payload: bytes, *, address: str | None = None) -> tuple[Account, bool]:
        """§7.3: the account of this key, and whether it is new. A key that is refused is in the audit.

        Step 1: a blocked key gets nothing, not even the account that it has (RULES §1). Step 2: a key that is known gets its
        account, before the payload is looked at (§7.3.1 returns the account whatever else was sent). Step 3: a client that
        only asks is told that there is none. Step 4: the key has to be acceptable (RULES §1). Step 5: the account is stored,
        unless the key was certified, or no more may come from this `address`.
        """
        actor, takings = audit.key_actor(key.thumbprint), self._limits.of_new_account(address)
        # Step 1
        spki_sha256 = _spki_sha256(key)
        if await is_blocked(self._store.database, thumbprint=key.thumbprint, spki_sha256=spki_sha256):
            raise await self._refusal(
                actor, key, "the account's key was reported as compromised; make a new one", takings=takings
            )
        # Step 2
        existing = await self._store.accounts.by_thumbprint(key.thumbprint)
        if existing is not None:
            return _require_valid(existing), False
        # Step 3
        request = parse_new_account(payload)
        if request.only_return_existing:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "no account has this key")
        # Step 4
        await self._require_acceptable(actor, key, takings=takings)
        # Step 5
        account = Account(
            id=self._ambient.new_id(),
            thumbprint=key.thumbprint,
            jwk=key.jwk,
            status=AccountStatus.VALID,
            contact=request.contact,
            created_at=self._ambient.now(),
        )
        try:
            stored = await self._store.accounts.create(account, spki_sha256=spki_sha256, takings=takings)
        except KeyRefusedError as error:
            raise await self._refusal(
                actor, key, f"the account's key cannot be used: {error}", takings=takings
            ) from None
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=actor) from None
        if stored.id != account.id:  # somebody with the same key was faster
            return _require_valid(stored), False
        return stored, True

    async def change_key(self, account: Account, change: KeyChange) -> Account:
        """§7.3.5, from step 7 on: the account with its new key. A key that is refused is in the audit.

        Steps 7 and 8: the change is about this account and the key that it has. Then the new key has to be acceptable (RULES §1).
        Step 9: no account has it, no certificate, and it is not blocked; this and the change itself are one transaction.
        """
        require_own(change, account, account_url=self._urls.account(account.id))
        actor = audit.account_actor(account.id)
        await self._require_acceptable(actor, change.new_key)
        try:
            return await self._store.accounts.replace_key(
                account, change.new_key, spki_sha256=_spki_sha256(change.new_key), at=self._ambient.now()
            )
        except KeyTakenError as taken:
            # §7.3.5: "SHOULD use status code 409 (Conflict) and provide the URL of that account in the Location header field"
            raise Problem(
                ProblemType.MALFORMED,
                "the new key is the key of an account already; make a new one for each change",
                status=409,
                headers={"Location": self._urls.account(taken.account_id)},
            ) from None
        except KeyRefusedError as error:
            raise await self._refusal(actor, change.new_key, f"the new key cannot be used: {error}") from None
        except StaleError:
            raise Problem(
                ProblemType.UNAUTHORIZED, "the account was deactivated meanwhile, or has another key by now", status=401
            ) from None

    async def note_refused(self, account: Account, reason: str) -> None:
        """Write down that an account which is shut, or whose key is blocked, was turned away."""
        event = audit.AccountRefused(
            actor=audit.account_actor(account.id), thumbprint=account.thumbprint, reason=reason
        )
        await self._store.note(event, at=self._ambient.now())

    async def _require_acceptable(self, actor: str, key: PublicKey, *, takings: Sequence[Taking] = ()) -> None:
        reason = check_key(key.key, None, weak_keys=self._weak_keys)
        if reason is not None:
            raise await self._refusal(actor, key, f"the account's key cannot be used: {reason}", takings=takings)

    async def _refusal(self, actor: str, key: PublicKey, detail: str, *, takings: Sequence[Taking] = ()) -> Problem:
        event = audit.AccountRefused(actor=actor, thumbprint=key.thumbprint, reason=detail)
        try:
            await self._store.note(event, at=self._ambient.now(), takings=takings)
        except LimitReachedError as error:
            return await self._limits.refusal(error, actor=actor)
        return Problem(ProblemType.BAD_PUBLIC_KEY, detail)

    async def update(self, account: Account, request: AccountUpdate) -> Account:
        """§7.3.2 and §7.3.6: new contacts, or the end of the account."""
        now = self._ambient.now()
        try:
            if request.deactivate:
                account = await self._store.accounts.deactivate(account.id, at=now)
            elif request.contact is not None:
                account = await self._store.accounts.replace_contact(account.id, request.contact, at=now)
        except StaleError:
            raise Problem(ProblemType.UNAUTHORIZED, "the account was deactivated meanwhile", status=401) from None
        return account


def _spki_sha256(key: PublicKey) -> bytes:
    """The digest by which certificates are kept."""
    return hashlib.sha256(encode_public_key(key.key)).digest()


def _require_valid(account: Account) -> Account:
    if account.status is not AccountStatus.VALID:
        raise Problem(
            ProblemType.UNAUTHORIZED, f"the account of this key is {account.status.value}; use another key", status=401
        )
    return account
