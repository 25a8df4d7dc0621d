"""Grants as an administrator makes, lists and stops them: operations of `Administration`, with JSON values in and out.

Rule 1: the HMAC key of a grant is in the answer of `create` and nowhere else, ever.
Rule 2: a grant that the configuration does not cover is refused with the reason, not made and then of no use.
Rule 3: the secret behind the HMAC keys is made with the first grant of a CA. Where it is missing, or is another than the newest grant
was made with, no grant is made, unless it is lost for good, which is for the administrator to say (`new_key`).
"""

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from acmeca import audit
from acmeca.acme import base64url
from acmeca.acme.objects import Account, format_time
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.keystore.pem import KeystoreError
from acmeca.policy.grants import Grant, GrantStatus
from acmeca.policy.limits import Rate, parse_rate
from acmeca.policy.names import NamePolicy, Network, parse_name_pattern
from acmeca.policy.offer import Offer
from acmeca.service.ambient import Ambient
from acmeca.service.arguments import Json, Operation, cut, flag, number, text, texts
from acmeca.service.bindings import MacKeys, MacSecret, digest_of
from acmeca.storage.errors import StaleError
from acmeca.storage.grants import StoredGrant, UsedGrant
from acmeca.storage.lock import FileTurn
from acmeca.storage.store import Store
from acmeca.urls import Urls

_TURNS_FILE: Final = "eab.lock"
_DEFAULT_LISTED: Final = 100
_MAX_LISTED: Final = 10_000
_ACCOUNTS_SHOWN: Final = 100


class GrantAdministration:
    """The operations on grants."""

    def __init__(
        self, store: Store, *, keys: MacKeys, names: NamePolicy, offer: Offer, urls: Urls, ambient: Ambient
    ) -> None:
        self._store = store
        self._keys = keys
        self._names = names
        self._offer = offer
        self._urls = urls
        self._ambient = ambient
        self._turns_path = keys.path.parent.parent / _TURNS_FILE
        self._turn = asyncio.Lock()

    @property
    def operations(self) -> dict[str, Operation]:
        """For `Administration`; `show` is called by it, which adds the certificates."""
        return {
            "eab_create": self.create,
            "eab_list": self.list_all,
            "eab_disable": self.disable,
            "eab_enable": self.enable,
        }

    async def create(self, arguments: Json, user: str) -> Json:
        """Arguments: `owner`; `names`, `networks`, `profiles` (lists); `lifetime` and `expires_in` (seconds); `quota` (like `500/week`);
        `single_use`, `preauthorized`, `new_key`. The answer has the key identifier and the HMAC key.
        """
        now = self._ambient.now()
        grant = _checked(lambda: self._parse(arguments, now))
        self._require_covered(grant)
        async with self._turn, FileTurn(self._turns_path):
            may_be_new = flag(arguments, "new_key")
            secret, was_made = await self._secret(may_be_new=may_be_new)
            mac_key = secret.derive(grant.id)
            while base64url.encode(mac_key).startswith("-"):  # a client would take it for an option
                grant = replace(grant, id=self._ambient.new_id())
                mac_key = secret.derive(grant.id)
            try:
                await self._store.grants.create(
                    StoredGrant(grant, digest_of(mac_key)),
                    actor=audit.admin_actor(user),
                    at=now,
                    fits=lambda newest: may_be_new or secret.fits_newest(newest),
                )
            except StaleError:
                if was_made:  # nothing was made with it
                    self._keys.path.unlink()
                raise Conflict(
                    f"another server of this CA made a grant meanwhile, with an eab.key of its own: copy it to {self._keys.path}"
                ) from None
        return _shown(UsedGrant(StoredGrant(grant, digest_of(mac_key)), 0, 0), now, secret) | {
            "hmac_key": base64url.encode(mac_key),
            "directory": self._urls.directory,
        }

    async def list_all(self, arguments: Json, _: str) -> Json:
        """Arguments: `owner` and `limit`. The newest first; `key_problem` says why bindings are refused here, if they are."""
        limit = number(arguments, "limit")
        limit = _DEFAULT_LISTED if limit is None else limit
        if not 0 < limit <= _MAX_LISTED:
            raise AcmecaError(f"limit: 1 to {_MAX_LISTED} is allowed")
        found = await self._store.grants.all_used(owner=text(arguments, "owner"), limit=limit + 1)
        secret, problem = self._secret_or_problem()
        now = self._ambient.now()
        return {
            "grants": [_shown(used, now, secret) for used in found[:limit]],
            "is_cut": len(found) > limit,
            "key_problem": problem if found else None,
        }

    async def show(self, arguments: Json) -> Json:
        """Argument: `kid`. The grant with its accounts, and how many orders of its quota are used up."""
        kid = text(arguments, "kid") or ""
        used = await self._store.grants.used(kid)
        if used is None:
            raise _not_found(kid)
        secret, problem = self._secret_or_problem()
        accounts = await self._store.grants.accounts(kid, limit=_ACCOUNTS_SHOWN)
        now = self._ambient.now()
        orders = [await self._store.limits.used(taking, at=now) for taking in used.stored.grant.takings]
        return _shown(used, now, secret) | {
            "quota_used": sum(orders),
            "key_problem": problem,
            "account_list": [
                {
                    "account": account.id,
                    "status": account.status.value,
                    "created_at": format_time(account.created_at),
                    "certificates": account.certificates,
                }
                for account in accounts
            ],
        }

    async def disable(self, arguments: Json, user: str) -> Json:
        """Argument: `kid`. From the answer on its accounts are refused, by every server."""
        kid = text(arguments, "kid") or ""
        try:
            await self._store.grants.disable(kid, actor=audit.admin_actor(user), at=self._ambient.now())
        except StaleError:
            if await self._store.grants.by_id(kid) is None:
                raise _not_found(kid) from None
            raise Conflict(f"the grant {kid} is disabled already") from None
        return await self.show({"kid": kid})

    async def enable(self, arguments: Json, user: str) -> Json:
        """Arguments: `kid`; `expires_in` (seconds) or `never_expires` for another end than it has."""
        kid = text(arguments, "kid") or ""
        now = self._ambient.now()
        stored = await self._store.grants.by_id(kid)
        if stored is None:
            raise _not_found(kid)
        expires_at = stored.grant.expires_at
        if flag(arguments, "never_expires"):
            expires_at = None
        elif number(arguments, "expires_in") is not None:
            expires_at = _end(arguments, now)
        if expires_at is not None and expires_at <= now:
            raise Conflict(f"the grant {kid} ended {format_time(expires_at)}: give it another end with --expires")
        await self._store.grants.enable(kid, expires_at=expires_at, actor=audit.admin_actor(user), at=now)
        return await self.show({"kid": kid})

    async def owner(self, account: Account) -> str | None:
        """Whose account it is, as far as its grant says so."""
        stored = None if account.grant_id is None else await self._store.grants.by_id(account.grant_id)
        return None if stored is None else stored.grant.owner

    # --- what is asked for ---------------------------------------------------------------------------------------

    def _parse(self, arguments: Json, now: datetime) -> Grant:
        """Raises ValueError, with what is allowed."""
        quota = text(arguments, "quota")
        lifetime = number(arguments, "lifetime")
        return Grant(
            id=self._ambient.new_id(),
            owner=text(arguments, "owner") or "",
            names=tuple(dict.fromkeys(_parse_name(name) for name in texts(arguments, "names"))),
            networks=tuple(dict.fromkeys(_parse_network(network) for network in texts(arguments, "networks"))),
            profiles=tuple(dict.fromkeys(texts(arguments, "profiles"))),
            lifetime=None if lifetime is None else _duration("lifetime", lifetime),
            quota=None if quota is None else _parse_quota(quota),
            single_use=flag(arguments, "single_use"),
            preauthorized=flag(arguments, "preauthorized"),
            created_at=now,
            expires_at=_end(arguments, now),
        )

    def _require_covered(self, grant: Grant) -> None:
        """Rule 2."""
        for name in grant.names:
            if (reason := self._names.refusal_of_pattern(name)) is not None:
                raise AcmecaError(f"names: {name}: {reason}")
        for network in grant.networks:
            if (reason := self._names.refusal_of_network(network)) is not None:
                raise AcmecaError(f"networks: {network}: {reason}")
        for profile in grant.profiles:
            if profile not in self._offer.profiles:
                raise AcmecaError(
                    f"profiles: {profile}: there is no such profile; there are {', '.join(self._offer.profiles)}"
                )

    # --- the secret ----------------------------------------------------------------------------------------------

    async def _secret(self, *, may_be_new: bool) -> tuple[MacSecret, bool]:
        """The secret to make a grant with, and whether it was made just now (rule 3)."""
        newest = await self._store.grants.newest()
        if not self._keys.path.exists():
            if newest and not may_be_new:
                raise Conflict(
                    f"{self._keys.path} is missing, and there are grants that were made with it: bring it from another server of this CA, "
                    "or from a backup of keys/. If it is lost for good, --new-key makes another: the accounts of older grants go on, and "
                    "no new ones can be made by them"
                )
            self._keys.make()
            return self._keys.load(), True
        secret = self._keys.load()
        if not may_be_new and not secret.fits_newest(newest):
            raise Conflict(
                f"{self._keys.path} is not the one that the grant {newest[0].grant.id} was made with: bring the right one from another "
                "server of this CA, or from a backup of keys/. If that is lost for good, --new-key goes on with this one: the accounts "
                "of older grants go on, and no new ones can be made by them"
            )
        return secret, False

    def _secret_or_problem(self) -> tuple[MacSecret | None, str | None]:
        try:
            return self._keys.load(), None
        except KeystoreError as error:
            return None, str(error)


def _shown(used: UsedGrant, now: datetime, secret: MacSecret | None) -> Json:
    """A grant for people. `is_key_here` says whether this server verifies its bindings."""
    grant = used.stored.grant
    return {
        "kid": grant.id,
        "owner": grant.owner,
        "status": _status(used, now),
        "names": list(grant.names),
        "networks": [str(network) for network in grant.networks],
        "profiles": list(grant.profiles),
        "lifetime": None if grant.lifetime is None else int(grant.lifetime.total_seconds()),
        "quota": None if grant.quota is None else str(grant.quota),
        "single_use": grant.single_use,
        "preauthorized": grant.preauthorized,
        "created_at": format_time(grant.created_at),
        "expires_at": None if grant.expires_at is None else format_time(grant.expires_at),
        "accounts": used.accounts,
        "certificates": used.certificates,
        "is_key_here": secret is not None and secret.fits(used.stored),
    }


def _status(used: UsedGrant, now: datetime) -> str:
    """`used` is a grant for one account that has it: the account goes on."""
    grant = used.stored.grant
    if grant.status is GrantStatus.DISABLED:
        return "disabled"
    if grant.obstacle(now) is not None:
        return "expired"
    return "used" if grant.single_use and used.accounts else "active"


def _checked(parse: Callable[[], Grant]) -> Grant:
    try:
        return parse()
    except ValueError as error:
        raise AcmecaError(str(error)) from None


def _parse_name(typed: str) -> str:
    try:
        return parse_name_pattern(typed)
    except ValueError as error:
        raise ValueError(f"names: {cut(typed)!r}: {error}") from None


def _parse_network(typed: str) -> Network:
    try:
        return ipaddress.ip_network(typed)
    except ValueError as error:
        raise ValueError(f"networks: {cut(typed)!r}: {error}; write one like 10.1.0.0/16") from None


def _parse_quota(typed: str) -> Rate:
    try:
        return parse_rate(typed)
    except ValueError as error:
        raise ValueError(f"quota: {cut(typed)!r}: {error}") from None


def _end(arguments: Json, now: datetime) -> datetime | None:
    seconds = number(arguments, "expires_in")
    try:
        return None if seconds is None else now + _duration("expires", seconds)
    except OverflowError:
        raise AcmecaError("expires: that is longer than any certificate lives") from None


def _duration(name: str, seconds: int) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise AcmecaError(f"{name}: that is longer than any certificate lives") from None


def _not_found(kid: str) -> NotFound:
    return NotFound(f"there is no grant {cut(kid)!r}; acmeca eab list shows those that there are")
