"""Whether control can be shown of what the policy allows: otherwise every order of that kind is refused."""

from collections.abc import Iterator

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.cli.checks.finding import Finding, ok, warning
from acmeca.config import Config
from acmeca.policy.challenges import ChallengePolicy


def check_challenges(config: Config) -> Iterator[Finding]:
    """One identifier of each kind that is issued for is held against the challenge types that are offered."""
    about = "validation.challenges"
    policy = ChallengePolicy(config.validation.challenges)
    kinds = [("policy.allowed_names", Identifier(IdentifierType.DNS, "a.example"))]
    if config.policy.wildcards:
        kinds.append(("policy.wildcards", Identifier(IdentifierType.DNS, "*.example")))
    if config.policy.allowed_networks:
        first = config.policy.allowed_networks[0].network_address
        kinds.append(("policy.allowed_networks", Identifier(IdentifierType.IP, str(first))))
    missing = [(key, reason) for key, identifier in kinds if (reason := policy.refusal(identifier)) is not None]
    for key, reason in missing:
        yield warning(about, f"{key} allows what nobody can have: {reason}", f"Add one, or take {key} back")
    if not missing:
        yield ok(about, f"{', '.join(config.validation.challenges)} are offered, enough for all that the policy allows")
