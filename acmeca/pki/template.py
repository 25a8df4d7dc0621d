"""What a kind of certificate has in common: how long it lives and what its key may be used for.

Rule 1: a template that could make a harmful certificate cannot be made; the checks stand in its constructor.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from acmeca.pki import der
from acmeca.pki.errors import PkiError

SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"
OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"
ANY_EXTENDED_KEY_USAGE: Final = "2.5.29.37.0"

_MAX_BACKDATE: Final = timedelta(hours=1)
_MAX_COMMON_NAME: Final = 64  # characters; RFC 5280 appendix A.1, ub-common-name


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A kind of end-entity certificate. Raises `PkiError` when its parts do not go together.

    `lifetime` counts from notBefore and includes the last second; `backdate` is how far notBefore lies before now, for
    peers whose clocks are slow; both are whole seconds. `extended_key_usages` are dotted object identifiers.
    `ocsp_responder` makes the certificate of a delegated OCSP signer (RFC 6960 §4.2.2.2), which needs
    `subject_common_name`; all others have an empty subject unless one is given.
    """

    name: str
    lifetime: timedelta
    extended_key_usages: tuple[str, ...]
    backdate: timedelta
    ocsp_responder: bool = False
    subject_common_name: str | None = None

    def __post_init__(self) -> None:
        if self.lifetime <= self.backdate or self.lifetime.microseconds:
            raise PkiError(
                f"template {self.name}: lifetime is {self.lifetime}; use whole seconds, more than backdate ({self.backdate})"
            )
        if not timedelta() <= self.backdate <= _MAX_BACKDATE or self.backdate.microseconds:
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

    def _check_subject(self) -> None:
        name = self.subject_common_name
        if self.ocsp_responder and name is None:
            raise PkiError(
                f"template {self.name}: an OCSP responder needs a subject_common_name; Java refuses it without"
            )
        if name is not None and not (0 < len(name) <= _MAX_COMMON_NAME and name.isprintable()):
            raise PkiError(
                f"template {self.name}: subject_common_name has to be 1 to {_MAX_COMMON_NAME} printable characters"
            )
