"""What a lint says about a certificate or a CRL.

Rule 1: a finding has a code that tests and operators can name; its message holds the value got and the value expected.
Rule 2: every finding stops what it was found in, whatever its severity: a CA that signs with a warning has no lint.
"""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whose demand is not met. Both stop the signing."""

    ERROR = "error"  # a MUST of the standard, or something else than what was asked for
    WARNING = "warning"  # a SHOULD of the standard, or a need of some relying party


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation. `code` is lower-case snake case, beginning with `e_` for an error and `w_` for a warning."""

    code: str
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
