r"""The resources of RFC 8555 §7.1 as acmeca keeps them, and as clients see them.

Rule 1: what is kept (`Account`, `Order`, …) is a frozen value; what was received is a value of `acme/payloads.py`.
Rule 2: JSON stays flat and without `\/` escapes: acme.sh and dehydrated read it with grep and sed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from acmeca.acme.identifiers import Identifier
from acmeca.acme.states import AccountStatus, AuthorizationStatus, ChallengeStatus, OrderStatus
from acmeca.urls import Urls


class ChallengeType(StrEnum):
    """The validation methods offered (RFC 8555 §9.7.8)."""

    HTTP_01 = "http-01"  # RFC 8555 §8.3
    TLS_ALPN_01 = "tls-alpn-01"  # RFC 8737
    DNS_01 = "dns-01"  # RFC 8555 §8.4
    DNS_ACCOUNT_01 = "dns-account-01"  # draft-ietf-acme-dns-account-label


@dataclass(frozen=True, slots=True)
class Account:
    """An account (§7.1.2). `jwk` is the public key as canonical JSON text, `thumbprint` its RFC 7638 digest, base64url.

    `grant_id` names the grant that it is bound to (§7.3.4), `terms_of_service` the URL that its holder agreed to (§7.3.3).
    """

    id: str
    thumbprint: str
    jwk: str
    status: AccountStatus
    contact: tuple[str, ...]
    created_at: datetime
    grant_id: str | None = None
    terms_of_service: str | None = None

    def to_json(self, urls: Urls) -> dict[str, object]:
        document: dict[str, object] = {"status": self.status.value, "contact": list(self.contact)}
        if self.terms_of_service is not None:
            document["termsOfServiceAgreed"] = True
        return document | {"orders": urls.account_orders(self.id)}


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge (§7.1.5, §8). `error` is a rendered problem document, set when validation failed."""

    type: ChallengeType
    token: str
    status: ChallengeStatus
    validated_at: datetime | None = None
    error: Mapping[str, object] | None = None

    def to_json(self, url: str) -> dict[str, object]:
        document: dict[str, object] = {
            "type": self.type.value,
            "url": url,
            "status": self.status.value,
            "token": self.token,
        }
        if self.validated_at is not None:
            document["validated"] = format_time(self.validated_at)
        if self.error is not None:
            document["error"] = dict(self.error)
        return document


@dataclass(frozen=True, slots=True)
class Authorization:
    """An authorization (§7.1.4): `identifier` is the base name, `wildcard` says that it was asked for as `*.name`.

    `grant_id` names the grant by which it was valid from the beginning; None when control is shown by a challenge.
    """

    id: str
    account_id: str
    identifier: Identifier
    wildcard: bool
    status: AuthorizationStatus
    expires_at: datetime
    challenges: tuple[Challenge, ...]
    grant_id: str | None = None

    @property
    def ordered(self) -> Identifier:
        """The identifier as the order has it: with its `*.` when it was asked for as a wildcard."""
        return Identifier(self.identifier.type, f"*.{self.identifier.value}") if self.wildcard else self.identifier

    def challenge(self, type_: str) -> Challenge | None:
        """The challenge of that type, or None when it is not offered."""
        return next((challenge for challenge in self.challenges if challenge.type == type_), None)

    def to_json(self, urls: Urls) -> dict[str, object]:
        document: dict[str, object] = {
            "status": self.status.value,
            "expires": format_time(self.expires_at),
            "identifier": self.identifier.to_json(),
            "challenges": [
                challenge.to_json(urls.challenge(self.id, challenge.type)) for challenge in self.shown_challenges()
            ],
        }
        if (
            self.wildcard
        ):  # "This field MUST be present and true for authorizations created as a result of a … wildcard"
            document["wildcard"] = True
        return document

    def shown_challenges(self) -> tuple[Challenge, ...]:
        """§7.1.4: for a valid authorization the challenge that was validated, for an invalid one the one that failed."""
        if self.status is AuthorizationStatus.VALID:
            return tuple(challenge for challenge in self.challenges if challenge.status is ChallengeStatus.VALID)
        if self.status is AuthorizationStatus.INVALID:
            return tuple(challenge for challenge in self.challenges if challenge.status is ChallengeStatus.INVALID)
        return self.challenges


@dataclass(frozen=True, slots=True)
class Order:
    """An order (§7.1.3). `error` is a rendered problem document; `certificate_id` is set once the order is valid.

    `profile` is the name of the profile it was made with, `profile_id` names that profile as it was then. `not_before` and
    `not_after` are what the client asked for. `replaces` is the identifier of the certificate that it will replace (RFC 9773 §4.1).
    """

    id: str
    account_id: str
    status: OrderStatus
    identifiers: tuple[Identifier, ...]
    authorization_ids: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    certificate_id: str | None = None
    error: Mapping[str, object] | None = None
    profile: str = "server"
    profile_id: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    replaces: str | None = None

    def to_json(self, urls: Urls) -> dict[str, object]:
        document: dict[str, object] = {
            "status": self.status.value,
            "expires": format_time(self.expires_at),
            "identifiers": [identifier.to_json() for identifier in self.identifiers],
            "authorizations": [urls.authorization(id_) for id_ in self.authorization_ids],
            "finalize": urls.finalize(self.id),
            "profile": self.profile,
        }
        if self.not_before is not None:
            document["notBefore"] = format_time(self.not_before)
        if self.not_after is not None:
            document["notAfter"] = format_time(self.not_after)
        if self.replaces is not None:
            # RFC 9773 §5: the server "MUST reflect that field in the response and in subsequent requests for the … Order object"
            document["replaces"] = self.replaces
        if self.error is not None:
            document["error"] = dict(self.error)
        if self.status is OrderStatus.VALID and self.certificate_id is not None:
            document["certificate"] = urls.certificate(self.certificate_id)
        return document


@lru_cache(maxsize=1024)  # an order shows the same expiry in each of its answers; 2.7 µs each without
def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as §7.1 examples have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def dump_json(document: Mapping[str, object]) -> bytes:
    """The bytes of a response body: UTF-8, no needless white space."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
