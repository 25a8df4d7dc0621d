"""Validations: for each challenge type, from what has to be shown to whether it was (RFC 8555 §8).

Rule 1: one table, from challenge type to `Validation`, is all that `challenges.py` knows of types. What a type needs of the
challenge stands in a `Target`.
Rule 2: control is observed by `validation/` and judged by `acme/`; a validation here joins the two and says what the audit keeps.
Rule 3: what a peer does becomes an `Outcome`. What is our own trouble is raised, and decides nothing.
"""

from dataclasses import dataclass
from typing import Protocol

from acmeca.acme.challenges import key_authorization
from acmeca.acme.dns01 import TxtObservation, dns01_name, dns_account01_name, judge_txt
from acmeca.acme.http01 import Http01Observation, judge_http01
from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import Problem
from acmeca.acme.tlsalpn01 import TlsAlpn01Observation, judge_tlsalpn01


@dataclass(frozen=True, slots=True)
class Target:
    """What has to be shown by whom: a challenge with its identifier and the account that answers it.

    `identifier` is the base name, `wildcard` says that `*.identifier` was ordered. `thumbprint` is that of the account's key
    when the validation begins (RFC 7638, base64url).
    """

    type: ChallengeType
    identifier: Identifier
    wildcard: bool
    token: str
    thumbprint: str
    account_url: str

    @property
    def key_authorization(self) -> str:
        """§8.1."""
        return key_authorization(self.token, self.thumbprint)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a validation ended: valid without a problem. `evidence` is for the audit, with nothing unescaped that a peer wrote."""

    evidence: str
    problem: Problem | None = None

    @classmethod
    def refused(cls, problem: Problem) -> "Outcome":
        """Not valid, for the reason that the client is told."""
        return cls(problem.detail, problem)


class Validation(Protocol):
    """Validates challenges of one type; any number at once. Cancelled when the whole takes too long.

    Never raises for the peer's doing. Raises for our own trouble (`Busy`, OSError): nothing was learnt then, and the
    validation is tried again.
    """

    async def validate(self, target: Target) -> Outcome: ...


class FurtherCheck(Protocol):
    """Asked after a validation that succeeded, within its time: a problem turns it into a failure. Raises as `Validation`."""

    async def refusal(self, target: Target) -> Problem | None: ...


class Http01Observer(Protocol):
    """Observes what a host says about a token; any number of observations at once; never raises for the peer's doing."""

    async def observe(self, identifier: Identifier, token: str) -> Http01Observation: ...


class Http01:
    """http-01 (§8.3)."""

    def __init__(self, observer: Http01Observer) -> None:
        self._observer = observer

    async def validate(self, target: Target) -> Outcome:
        observation = await self._observer.observe(target.identifier, target.token)
        problem = judge_http01(observation, expected=target.key_authorization)
        if problem is not None:
            return Outcome.refused(problem)
        return Outcome(f"{observation.url} from {', '.join(observation.endpoints_tried)}")


class TlsAlpn01Observer(Protocol):
    """Observes what a host shows in a TLS handshake; any number of observations at once; never raises for the peer's doing."""

    async def observe(self, identifier: Identifier) -> TlsAlpn01Observation: ...


class TlsAlpn01:
    """tls-alpn-01 (RFC 8737)."""

    def __init__(self, observer: TlsAlpn01Observer) -> None:
        self._observer = observer

    async def validate(self, target: Target) -> Outcome:
        observation = await self._observer.observe(target.identifier)
        problem = judge_tlsalpn01(observation, expected=target.key_authorization)
        if problem is not None:
            return Outcome.refused(problem)
        tried = ", ".join(attempt.endpoint for attempt in observation.attempts)
        return Outcome(f"acme-tls/1 with SNI {observation.server_name} from {tried}")


class TxtObserver(Protocol):
    """Observes the TXT records of a name; any number of observations at once; never raises for the peer's doing."""

    async def observe(self, name: str) -> TxtObservation: ...


class Dns01:
    """dns-01 (§8.4)."""

    def __init__(self, observer: TxtObserver) -> None:
        self._observer = observer

    async def validate(self, target: Target) -> Outcome:
        observation = await self._observer.observe(dns01_name(target.identifier))
        return _of_records(observation, judge_txt(observation, key_authorization=target.key_authorization))


class DnsAccount01:
    """dns-account-01 (draft-ietf-acme-dns-account-label)."""

    def __init__(self, observer: TxtObserver) -> None:
        self._observer = observer

    async def validate(self, target: Target) -> Outcome:
        observation = await self._observer.observe(dns_account01_name(target.identifier, target.account_url))
        problem = judge_txt(observation, key_authorization=target.key_authorization, account_url=target.account_url)
        return _of_records(observation, problem)


def _of_records(observation: TxtObservation, problem: Problem | None) -> Outcome:
    if problem is not None:
        return Outcome.refused(problem)
    return Outcome(f"TXT {observation.name} at {observation.server}")
