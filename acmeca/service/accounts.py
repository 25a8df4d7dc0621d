"""Accounts: newAccount, update, keyChange and deactivation (RFC 8555 §7.3), and who is behind a `kid`.

Rule 1: what an account may not, any more or at all, is asked of `KnownAccount` for every request: its status, its key, its grant.
"""

import hashlib
from collections.abc import Mapping, Sequence
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
from acmeca.policy.terms import TermsOfService
from acmeca.service.ambient import Ambient
from acmeca.service.bindings import Bindings
from acmeca.service.limits import Limits
from acmeca.storage.errors import GrantRefusedError, KeyRefusedError, KeyTakenError, StaleError
from acmeca.storage.keys import is_blocked
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.store import Store
from acmeca.urls import Urls

_KEPT_KEYS: Final = 10_000  # parsed, some 2 KiB each


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account with its key, parsed, and whether that key was blocked.

    `grant_obstacle` says why the grant that it is bound to is of no use now; None when it is, or there is none.
    """

    account: Account
    key: PublicKey
    is_blocked: bool
    grant_obstacle: str | None

    @property
    def refusal(self) -> Problem | None:
        """Why nothing is done for the account any more, whatever it asks for; or None."""
        if self.account.status is not AccountStatus.VALID:
            # §7.3.6: "the server MUST reject requests … authorized by that account's key … with … unauthorized"
            detail = f"the account is {self.account.status.value} and can do nothing any more"
            return Problem(ProblemType.UNAUTHORIZED, detail, status=401)
        if self.is_blocked:
            return Problem(ProblemType.UNAUTHORIZED, "the account's key was reported as compromised")
        if self.grant_obstacle is not None:
            return Problem(ProblemType.UNAUTHORIZED, f"the grant of this account cannot be used: {self.grant_obstacle}")
        return None


@dataclass(frozen=True, slots=True)
class Registration:
    """What came of a newAccount request: the account, whether it is new, and the binding that was verified for it (§7.3.4)."""

    account: Account
    is_new: bool
    external_account_binding: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who brings a key for an account, and the limits that it uses to be refused with it: that is written down."""

    actor: str
    key: PublicKey
    takings: Sequence[Taking] = ()


class Accounts:
    """The accounts of this server.

    An account is read afresh for each request, so that what any process did to it holds everywhere at once; only its key,
    which is costly to parse and changes with its text, is kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        bindings: Bindings,
        binding_required: bool,
        terms: TermsOfService,
        urls: Urls,
        limits: Limits,
        ambient: Ambient,
        weak_keys: frozenset[bytes] = frozenset(),
    ) -> None:
        self._store = store
        self._bindings = bindings
        self._binding_required = binding_required
        self._terms = terms
        self._urls = urls
        self._limits = limits
        self._weak_keys = weak_keys
        self._ambient = ambient
        self._load_key = lru_cache(maxsize=_KEPT_KEYS)(load_jwk)

    async def known(self, account_id: str) -> KnownAccount | None:
        """The account of this id, of whatever status, or None."""
        standing = await self._store.accounts.standing(account_id)
        if standing is None:
            return None
        return KnownAccount(
            standing.account,
            self._load_key(standing.account.jwk),
            standing.is_blocked,
            standing.grant_obstacle(self._ambient.now()),
        )

    async def new_account(self, key: PublicKey, payload: bytes, *, address: str | None = None) -> Registration:
        """§7.3: the account of this key. A key that is refused is in the audit.

        Step 1: a blocked key gets nothing, not even the account that it has (RULES §1). Step 2: a key that is known gets its
        account, before the payload is looked at (§7.3.1 returns the account whatever else was sent); only that its holder agrees
        to the terms is taken from it. Step 3: a client that only asks is told that there is none. Step 4: the terms are agreed to.
        Step 5: the key has to be acceptable (RULES §1). Step 6: a binding that was sent is verified; one has to be sent where it is
        required. Step 7: the account is stored, unless the key was certified, the grant makes no account any more, or no more may
        come from this `address`.
        """
        sender = _Sender(audit.key_actor(key.thumbprint), key, self._limits.of_new_account(address))
        # Step 1
        spki_sha256 = _spki_sha256(key)
        if await is_blocked(self._store.database, thumbprint=key.thumbprint, spki_sha256=spki_sha256):
            raise await self._refusal(sender, _bad_key("the account's key was reported as compromised; make a new one"))
        # Step 2
        existing = await self._store.accounts.by_thumbprint(key.thumbprint)
        if existing is not None:
            return Registration(await self._agreed(await self._require_usable(existing), payload), is_new=False)
        # Step 3
        request = parse_new_account(payload)
        if request.only_return_existing:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "no account has this key")
        # Step 4
        problem = self._terms.refusal_of_new(agreed=request.terms_of_service_agreed)
        if problem is not None:
            raise await self._refusal(sender, problem)
        # Step 5
        await self._require_acceptable(sender)
        # Step 6
        grant_id = await self._bound_grant(sender, request.external_account_binding)
        # Step 7
        account = Account(
            id=self._ambient.new_id(),
            thumbprint=key.thumbprint,
            jwk=key.jwk,
            status=AccountStatus.VALID,
            contact=request.contact,
            created_at=self._ambient.now(),
            grant_id=grant_id,
            terms_of_service=self._terms.url,
        )
        try:
            stored = await self._store.accounts.create(account, spki_sha256=spki_sha256, takings=sender.takings)
        except KeyRefusedError as error:
            raise await self._refusal(sender, _bad_key(f"the account's key cannot be used: {error}")) from None
        except GrantRefusedError as error:
            detail = f"externalAccountBinding: the grant {grant_id} makes no account: {error}"
            raise await self._refusal(sender, Problem(ProblemType.UNAUTHORIZED, detail)) from None
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=sender.actor) from None
        if stored.id != account.id:  # somebody with the same key was faster
            return Registration(await self._require_usable(stored), is_new=False)
        return Registration(stored, is_new=True, external_account_binding=request.external_account_binding)

    async def _bound_grant(self, sender: _Sender, binding: Mapping[str, object] | None) -> str | None:
        """The grant that a new account is bound to. What was sent is verified also where nothing has to be sent (§7.3.4)."""
        if binding is None:
            if not self._binding_required:
                return None
            problem = Problem(
                ProblemType.EXTERNAL_ACCOUNT_REQUIRED,
                "this CA makes accounts only with an external account binding: ask its administrators for a key identifier and an "
                "HMAC key, and give both to the client",
            )
            raise await self._refusal(sender, problem)
        try:
            return (await self._bindings.verify(binding, url=self._urls.new_account, account_key=sender.key)).id
        except Problem as problem:
            raise await self._refusal(sender, problem) from None

    async def _require_usable(self, account: Account) -> Account:
        """RULES §2: a deactivated or disabled account is refused everywhere, "including a new newAccount with its key"."""
        known = await self.known(account.id)
        refusal = None if known is None else known.refusal
        if refusal is not None:
            await self.note_refused(account, refusal.detail)
            raise refusal
        return account

    async def _agreed(self, account: Account, payload: bytes) -> Account:
        """The account, which agrees to terms that it has not agreed to before if the request says so (§7.3.3)."""
        if self._terms.url is None or account.terms_of_service == self._terms.url:
            return account
        try:
            request = parse_new_account(payload)
        except Problem:  # §7.3.1: whatever else was sent, the account is returned
            return account
        try:
            return await self._agree(
                account, agreed=request.terms_of_service_agreed and not request.only_return_existing
            )
        except StaleError:
            raise _deactivated_meanwhile() from None

    async def _agree(self, account: Account, *, agreed: bool) -> Account:
        terms = self._terms.agreed_by(account, agreed=agreed)
        if terms is None:
            return account
        return await self._store.accounts.agree(account.id, terms, at=self._ambient.now())

    async def change_key(self, account: Account, change: KeyChange) -> Account:
        """§7.3.5, from step 7 on: the account with its new key. A key that is refused is in the audit.

        Steps 7 and 8: the change is about this account and the key that it has. Then the new key has to be acceptable (RULES §1).
        Step 9: no account has it, no certificate, and it is not blocked; this and the change itself are one transaction.
        """
        require_own(change, account, account_url=self._urls.account(account.id))
        sender = _Sender(audit.account_actor(account.id), change.new_key)
        await self._require_acceptable(sender)
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
            raise await self._refusal(sender, _bad_key(f"the new key cannot be used: {error}")) from None
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

    async def _require_acceptable(self, sender: _Sender) -> None:
        reason = check_key(sender.key.key, None, weak_keys=self._weak_keys)
        if reason is not None:
            raise await self._refusal(sender, _bad_key(f"the account's key cannot be used: {reason}"))

    async def _refusal(self, sender: _Sender, problem: Problem) -> Problem:
        """The problem, written down; or that nothing more is written down from there."""
        event = audit.AccountRefused(actor=sender.actor, thumbprint=sender.key.thumbprint, reason=problem.detail)
        try:
            await self._store.note(event, at=self._ambient.now(), takings=sender.takings)
        except LimitReachedError as error:
            return await self._limits.refusal(error, actor=sender.actor)
        return problem

    async def update(self, account: Account, request: AccountUpdate) -> Account:
        """§7.3.2, §7.3.3 and §7.3.6: new contacts, agreement to new terms, or the end of the account."""
        now = self._ambient.now()
        try:
            if request.deactivate:
                account = await self._store.accounts.deactivate(account.id, at=now)
            else:
                account = await self._agree(account, agreed=request.terms_of_service_agreed)
                if request.contact is not None:
                    account = await self._store.accounts.replace_contact(account.id, request.contact, at=now)
        except StaleError:
            raise _deactivated_meanwhile() from None
        return account


def _spki_sha256(key: PublicKey) -> bytes:
    """The digest by which certificates are kept."""
    return hashlib.sha256(encode_public_key(key.key)).digest()


def _deactivated_meanwhile() -> Problem:
    return Problem(ProblemType.UNAUTHORIZED, "the account was deactivated meanwhile", status=401)


def _bad_key(detail: str) -> Problem:
    return Problem(ProblemType.BAD_PUBLIC_KEY, detail)
