"""The failures of `pki`. They know nothing of ACME: `service` says which problem each of them is to a client.

Rule 1: a message names the value got and the value expected, and never holds a key or raw bytes of a request.
"""

from acmeca.errors import AcmecaError
from acmeca.pki.findings import Finding


class PkiError(AcmecaError):
    """Something about a key, a certificate, a CRL or an OCSP message is not as it has to be."""


class CsrError(PkiError):
    """A CSR that cannot be used. The text is one sentence for the client that sent it."""


class IssuanceError(PkiError):
    """A certificate that this issuer must not make as asked: names, key, times or the order of the steps."""


class IssuerNotValidError(IssuanceError):
    """The issuer's own certificate is not valid at the time: it has ended, or the clock is wrong."""


class ValidityError(IssuanceError):
    """A notBefore or notAfter that was asked for and cannot be given. The text names it and the bound, for the client."""


class LintError(PkiError):
    """What was about to be signed has findings, so it was not signed."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("; ".join(str(finding) for finding in findings))
        self.findings = findings


class SignatureMismatchError(PkiError):
    """A signature is not one by this key over this data."""
