"""Which profiles are offered, and which of them an order gets (draft-ietf-acme-profiles §3, §4).

Rule 1: names of profiles are compared as they are: they are keys of a JSON object, which differ in their case.
Rule 2: a refusal names the profiles that may be used, so that the client can ask for one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.profiles import Profile
from acmeca.quoting import quote_input


@dataclass(frozen=True, slots=True)
class Offer:
    """The profiles of the configuration by their names, in its order. `default` is one of them."""

    profiles: Mapping[str, Profile]
    default: str

    def choose(self, requested: str | None, *, allowed: Sequence[str] | None = None) -> Profile:
        """The profile of a new order. Raises Problem `invalidProfile`.

        `requested` is what the client asks for, None where it leaves the choice: §4: "it is RECOMMENDED that the server select a
        profile". `allowed` are the names of the profiles that the account may use, the default first; None: all, and the
        configuration's default.
        """
        names = [name for name in (self.profiles if allowed is None else allowed) if name in self.profiles]
        if not names:
            raise Problem(
                ProblemType.INVALID_PROFILE,
                f"the account may use {_listed(allowed or ())}, which this server does not offer (any more); ask its operator",
            )
        if requested is None:
            return self.profiles[self.default if allowed is None else names[0]]
        if requested not in names:
            # "a profile that it is not advertising": "it MUST reject the request with a problem document of type "invalidProfile""
            raise Problem(
                ProblemType.INVALID_PROFILE,
                f"profile: {quote_input(requested)} is none that the account may use; use {_listed(names)}, or leave it out",
            )
        return self.profiles[requested]

    def current(self, name: str) -> Profile:
        """What the profile of an order is today. Raises Problem `invalidProfile` when there is none.

        §4: "If a server receives a request to finalize an Order whose profile the CA is no longer willing to issue under, it MUST
        respond with a problem document of type "invalidProfile"".
        """
        profile = self.profiles.get(name)
        if profile is None:
            raise Problem(
                ProblemType.INVALID_PROFILE,
                f"the profile {name} is not offered any more; make a new order with {_listed(tuple(self.profiles))}",
            )
        return profile


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names) or "no profile"
