"""What the services tell of their work, to whoever counts it. Nothing here counts, and no service knows who does.

Rule 1: a call is cheap (OCSP makes one with every answer), never blocks and never raises.
Rule 2: nothing is told that names somebody: no identifier, serial, account or order.
"""

from typing import Protocol

from acmeca.acme.objects import ChallengeType


class Observer(Protocol):
    """Given to the services that have something to tell."""

    def ocsp_answered(self, status: str, *, kept: bool) -> None:
        """An OCSP answer: "good", "revoked", "unknown" or a ResponseStatus of RFC 6960 §4.2.1; whether it was signed before."""

    def validated(self, type_: ChallengeType, outcome: str, seconds: float) -> None:
        """A validation ended: "valid", or the type of the problem that the client is told; "overtaken" when the authorization was
        given up meanwhile, "unfinished" for a failure of ours.
        """

    def issued(self, profile: str) -> None:
        """A certificate of this profile was signed and stored."""

    def finalized(self, seconds: float) -> None:
        """From the CSR of a finalize to its certificate, as `issued` tells of too."""

    def limited(self, limit: str) -> None:
        """A request was refused because this rate limit had no room (`policy/limits.py`)."""

    def revoked(self, reason: int | None) -> None:
        """A certificate was revoked, or its reason was raised to keyCompromise (RFC 5280 §5.3.1)."""

    def orders_closed(self, status: str, count: int = 1) -> None:
        """Orders came to their end: "valid" or "invalid" (RFC 8555 §7.1.6)."""
