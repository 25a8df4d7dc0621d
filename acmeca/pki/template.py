"""What a kind of certificate has in common: how long it lives, what its key may be used for, what its subject says.

Rule 1: a template that could make a harmful certificate cannot be made; the checks stand in its constructor.
Rule 2: a common name is one that the certificate is for, or one of the CA's own making; it never comes from a request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from acmeca.pki import der
from acmeca.pki.errors import PkiError
from acmeca.pki.names import Subject

SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"
OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"
ANY_EXTENDED_KEY_USAGE: Final = "2.5.29.37.0"

MAX_BACKDATE: Final = timedelta(hours=1)
_MAX_SUBJECT_PART: Final = (
    64  # characters; RFC 5280 appendix A.1: ub-common-name, ub-organization-name, ub-organizational-unit-name
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A kind of end-entity certificate. Raises `PkiError` when its parts do not go together.

    `lifetime` counts from notBefore and includes the last second; `maximum_lifetime` is what may be asked for instead
    (None: no more than `lifetime`); `backdate` is how far notBefore lies before now, for peers whose clocks are slow; all are
    whole seconds. `extended_key_usages` are dotted object identifiers. `organization`, `organizational_unit` and
    `subject_common_name` stand in every subject; with `common_name_from_names` the common name is one of the certificate's host
    names instead. `must_staple` obliges a TLS server to staple OCSP answers (RFC 7633). `ocsp_responder` makes the certificate
    of a delegated OCSP signer (RFC 6960 §4.2.2.2), which needs `subject_common_name`.
    """

    name: str
    lifetime: timedelta
    extended_key_usages: tuple[str, ...]
    backdate: timedelta
    ocsp_responder: bool = False
    subject_common_name: str | None = None
    organization: str | None = None
    organizational_unit: str | None = None
    common_name_from_names: bool = False
    must_staple: bool = False
    maximum_lifetime: timedelta | None = None

    @property
    def longest(self) -> timedelta:
        """The longest lifetime that a certificate of this kind can have."""
        return self.lifetime if self.maximum_lifetime is None else self.maximum_lifetime

    def subject(self, dns_names: Sequence[str]) -> Subject:
        """The subject of a certificate for these host names, in the order in which they were asked for.

        A common name taken from them is the first that fits its 64 characters; there is none where none fits.
        """
        name = self.subject_common_name
        if self.common_name_from_names:
            name = next((dns_name for dns_name in dns_names if len(dns_name) <= _MAX_SUBJECT_PART), None)
        return Subject(self.organization, self.organizational_unit, name)

    def __post_init__(self) -> None:
        if self.lifetime <= self.backdate or self.lifetime.microseconds:
            raise PkiError(
                f"template {self.name}: lifetime is {self.lifetime}; use whole seconds, more than backdate ({self.backdate})"
            )
        if self.longest < self.lifetime or self.longest.microseconds:
            raise PkiError(
                f"template {self.name}: maximum_lifetime is {self.maximum_lifetime}; use whole seconds, no less than lifetime"
                f" ({self.lifetime})"
            )
        if not timedelta() <= self.backdate <= MAX_BACKDATE or self.backdate.microseconds:
            raise PkiError(f"template {self.name}: backdate is {self.backdate}; use whole seconds from none to an hour")
        self._check_extended_key_usages()
        self._check_subject()

    def _check_extended_key_usages(self) -> None:
        usages = self.extended_key_usages
        try:
            for usage in usages:
                der.oid(usage)
        except der.DerError as error:
            raise PkiError(f"template {self.name}: extended_key_usages: {error}") from None
        if not usages or len(set(usages)) != len(usages):
            raise PkiError(f"template {self.name}: extended_key_usages must name at least one purpose, each once")
        if ANY_EXTENDED_KEY_USAGE in usages:
            raise PkiError(f"template {self.name}: anyExtendedKeyUsage would let the key be used for everything")
        # RFC 6960 §4.2.2.2: whoever holds this purpose from an issuer can vouch for all of its certificates.
        if self.ocsp_responder and usages != (OCSP_SIGNING,):
            raise PkiError(f"template {self.name}: an OCSP responder has the purpose {OCSP_SIGNING} and no other")
        if not self.ocsp_responder and OCSP_SIGNING in usages:
            raise PkiError(f"template {self.name}: {OCSP_SIGNING} is for OCSP responders only")
        if self.must_staple and SERVER_AUTH not in usages:
            raise PkiError(
                f"template {self.name}: must_staple is for TLS servers, which have the purpose {SERVER_AUTH}"
            )

    def _check_subject(self) -> None:
        name = self.subject_common_name
        if self.ocsp_responder and name is None:
            raise PkiError(
                f"template {self.name}: an OCSP responder needs a subject_common_name; Java refuses it without"
            )
        if name is not None and self.common_name_from_names:
            raise PkiError(f"template {self.name}: the common name is fixed, or one of the names, and not both")
        for part in ("subject_common_name", "organization", "organizational_unit"):
            text = getattr(self, part)
            if text is not None and not (0 < len(text) <= _MAX_SUBJECT_PART and text.isprintable()):
                raise PkiError(f"template {self.name}: {part} has to be 1 to {_MAX_SUBJECT_PART} printable characters")
