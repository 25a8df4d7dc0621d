"""Which challenge types are offered, and which still count (RULES §3)."""

from dataclasses import replace

import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Authorization, Challenge, ChallengeType
from acmeca.acme.problem import ProblemType
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus
from acmeca.policy.challenges import ChallengePolicy
from tests.support import stored

NAME = Identifier(IdentifierType.DNS, "a.corp.internal")
WILDCARD = Identifier(IdentifierType.DNS, "*.corp.internal")
ADDRESS = Identifier(IdentifierType.IP, "fd00::1")

HTTP, ALPN, DNS, DNS_ACCOUNT = (
    ChallengeType.HTTP_01,
    ChallengeType.TLS_ALPN_01,
    ChallengeType.DNS_01,
    ChallengeType.DNS_ACCOUNT_01,
)


def valid(identifier: Identifier, type_: ChallengeType, **changes: object) -> Authorization:
    """An authorization that became valid by a challenge of this type."""
    other = HTTP if type_ is not HTTP else ALPN
    return replace(
        stored.authorization(
            stored.account(),
            identifier.base.value,
            wildcard=identifier.is_wildcard,
            status=AuthorizationStatus.VALID,
            challenges=(
                Challenge(other, "t1", ChallengeStatus.PENDING),
                Challenge(type_, "t2", ChallengeStatus.VALID),
            ),
        ),
        identifier=identifier.base,
        **changes,  # type: ignore[arg-type]  (fields by name)
    )


class TestOffered:
    @pytest.mark.parametrize(
        ("types", "identifier", "offered"),
        [
            ((HTTP, ALPN, DNS), NAME, (HTTP, ALPN, DNS)),
            ((DNS, HTTP), NAME, (DNS, HTTP)),  # in the order of the configuration
            ((HTTP, ALPN, DNS, DNS_ACCOUNT), WILDCARD, (DNS, DNS_ACCOUNT)),
            ((HTTP, ALPN), WILDCARD, ()),
            ((DNS, ALPN, HTTP), ADDRESS, (ALPN, HTTP)),
            ((DNS,), ADDRESS, ()),
        ],
    )
    def test_what_is_configured_and_suits(
        self, types: tuple[ChallengeType, ...], identifier: Identifier, offered: tuple[ChallengeType, ...]
    ) -> None:
        policy = ChallengePolicy(types)
        assert policy.offered(identifier) == offered
        assert (policy.refusal(identifier) is None) == bool(offered)

    @pytest.mark.parametrize(
        ("types", "identifier", "said"),
        [
            ((HTTP,), WILDCARD, "wildcard names: the operator may add dns-01 or dns-account-01"),
            ((DNS,), ADDRESS, "IP addresses: the operator may add http-01 or tls-alpn-01"),
        ],
    )
    def test_a_refusal_says_what_to_configure(
        self, types: tuple[ChallengeType, ...], identifier: Identifier, said: str
    ) -> None:
        (problem,) = ChallengePolicy(types).refusals((NAME, identifier) if types == (HTTP,) else (identifier, NAME))
        assert problem.type is ProblemType.REJECTED_IDENTIFIER
        assert problem.identifier == identifier
        assert "validation.challenges" in problem.detail
        assert problem.detail.endswith(said)


class TestAllowed:
    @pytest.mark.parametrize("type_", list(ChallengeType))
    def test_a_valid_one_counts_while_its_type_is_offered(self, type_: ChallengeType) -> None:
        """RULES §3: "A valid authorization is reused only … if its challenge type is still allowed.\""""
        policy = ChallengePolicy(tuple(ChallengeType))
        assert policy.accepts(valid(NAME, type_))
        assert not ChallengePolicy(tuple(other for other in ChallengeType if other is not type_)).accepts(
            valid(NAME, type_)
        )

    @pytest.mark.parametrize("status", [status for status in AuthorizationStatus if status != "valid"])
    def test_only_a_valid_one(self, status: AuthorizationStatus) -> None:
        assert not ChallengePolicy(tuple(ChallengeType)).accepts(valid(NAME, HTTP, status=status))

    @pytest.mark.parametrize("type_", [HTTP, ALPN])
    def test_a_wildcard_never_by_one_host(self, type_: ChallengeType) -> None:
        """RULES §3: "http-01 and tls-alpn-01 … never satisfy a wildcard", wherever such an authorization came from."""
        policy = ChallengePolicy(tuple(ChallengeType))
        assert not policy.accepts(valid(WILDCARD, type_))
        assert not policy.allows(valid(WILDCARD, type_), type_)

    @pytest.mark.parametrize("type_", [DNS, DNS_ACCOUNT])
    def test_an_address_never_by_dns(self, type_: ChallengeType) -> None:
        policy = ChallengePolicy(tuple(ChallengeType))
        assert not policy.allows(valid(ADDRESS, type_), type_)


def test_what_a_grant_gave_rests_on_no_type() -> None:
    """The type that it shows to clients (RFC 8555 §7.1.4) was never validated, and may be taken out."""
    policy = ChallengePolicy((ALPN,))
    assert not policy.counts(valid(NAME, HTTP))
    assert policy.counts(valid(NAME, ALPN))
    assert policy.counts(valid(NAME, HTTP, grant_id="grant"))
