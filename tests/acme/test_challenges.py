"""What all challenge types have in common (RFC 8555 §8): tokens, key authorizations, which type suits which identifier."""

import base64

import pytest

from acmeca.acme.challenges import key_authorization, new_token, suitable_types
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import ChallengeType

THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
EXPECTED = f"{TOKEN}.{THUMBPRINT}"


class TestToken:
    def test_new_token_is_unpadded_base64url_of_its_entropy(self) -> None:
        entropy = bytes(range(240, 256))
        assert base64.urlsafe_b64decode(new_token(entropy) + "==") == entropy
        assert "=" not in new_token(entropy)
        assert new_token(b"\xff" * 18) == "_" * 24

    @pytest.mark.parametrize("length", [0, 1, 15])
    def test_less_than_128_bits_of_entropy_are_refused(self, length: int) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            new_token(bytes(length))

    def test_key_authorization_joins_with_a_dot(self) -> None:
        assert key_authorization(TOKEN, THUMBPRINT) == EXPECTED

    @pytest.mark.parametrize("part", ["", "a.b", "a=", "a/b", "a+b", "a\n", "ä"])
    def test_key_authorization_takes_base64url_only(self, part: str) -> None:
        for token, thumbprint in ((part, THUMBPRINT), (TOKEN, part)):
            with pytest.raises(ValueError, match="base64url"):
                key_authorization(token, thumbprint)


class TestSuitableTypes:
    def test_a_name_by_every_type(self) -> None:
        assert suitable_types(Identifier(IdentifierType.DNS, "a.corp.internal")) == set(ChallengeType)

    def test_a_wildcard_by_dns_alone(self) -> None:
        """RULES §3: "http-01 and tls-alpn-01 are never offered for, and never satisfy, a wildcard"."""
        suitable = suitable_types(Identifier(IdentifierType.DNS, "*.corp.internal"))
        assert suitable == {ChallengeType.DNS_01, ChallengeType.DNS_ACCOUNT_01}

    @pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
    def test_an_address_never_by_dns(self, address: str) -> None:
        """RFC 8738 §7: "The existing "dns-01" challenge MUST NOT be used to validate IP identifiers.\""""
        suitable = suitable_types(Identifier(IdentifierType.IP, address))
        assert suitable == {ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01}
