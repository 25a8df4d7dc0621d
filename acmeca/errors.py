"""The failures that are no ACME problem and belong to no single layer.

Rule 1: a layer's own failures live in that layer (`pki` raises `PkiError`, `keystore` raises `KeystoreError`, …).
Rule 2: all of them descend from `AcmecaError`, whose text is one line that tells a person what to do. The command line
prints that line and exits 1; the web answers `serverInternal` and logs it whole.
"""


class AcmecaError(Exception):
    """A failure with a message meant for a person: what is wrong, what was expected, what to do."""


class Busy(AcmecaError):
    """The server cannot take more work now; the caller may try again. The web answers 503 with `Retry-After`."""


class NotFound(AcmecaError):
    """What an administrator named does not exist."""


class Conflict(AcmecaError):
    """What an administrator asked for does not fit the present state, for instance a certificate revoked before."""
