"""RFC 8555 §8.4, the dns-01 challenge, clause by clause; and draft-ietf-acme-dns-account-label-03, which differs in the name."""

import json

import dns.rcode
import pytest

from acmeca.acme.challenges import key_authorization
from acmeca.acme.dns01 import dns01_name, dns_account01_name, judge_txt, txt_value
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.validation.dns01 import TxtObserver
from tests.support.dns_peer import Behaviour, DnsPeer, client_of, dns_peer, patience, says, silence

# §8.4, the example of a challenge.
CHALLENGE = json.loads("""
{
  "type": "dns-01",
  "url": "https://example.com/acme/chall/Rg5dV14Gh1Q",
  "status": "pending",
  "token": "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
}
""")
THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"  # §8.3
AUTHORIZATION = key_authorization(CHALLENGE["token"], THUMBPRINT)
NAME = Identifier(IdentifierType.DNS, "www.example.org")
ASKED = "_acme-challenge.www.example.org"
ACCOUNT_URL = "https://example.com/acme/acct/ExampleAccount"


async def judged(
    peer: DnsPeer, name: str = ASKED, account_url: str | None = None, *, attempt_timeout: float = 2
) -> Problem | None:
    observation = await TxtObserver(client_of(peer.server, attempt_timeout=attempt_timeout)).observe(name)
    return judge_txt(observation, key_authorization=AUTHORIZATION, account_url=account_url)


class TestSection8_4:  # noqa: N801  (the section's number)
    def test_the_name(self) -> None:
        """The client constructs the validation domain name by prepending the label "_acme-challenge" to the domain name being
        validated … if the domain name being validated is "www.example.org", then the client would provision the following DNS
        record: _acme-challenge.www.example.org."""
        assert dns01_name(NAME) == ASKED

    def test_the_value(self) -> None:
        """The record provisioned to the DNS contains the base64url encoding of this digest [SHA-256 of the key authorization]."""
        # Computed by others for the token and the thumbprint of §8.3.
        assert (
            txt_value(key_authorization("LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0", THUMBPRINT))
            == "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo"
        )

    async def test_the_steps(self) -> None:
        """1. Compute the SHA-256 digest of the stored key authorization 2. Query for TXT records for the validation domain name
        3. Verify that the contents of one of the TXT records match the digest value"""
        async with dns_peer() as peer:
            peer.add(ASKED, "TXT", '"another"', f'"{txt_value(AUTHORIZATION)}"', '"and another"')
            assert await judged(peer) is None
            assert [(question.name, question.type) for question in peer.questions] == [(ASKED, "TXT")]

    async def test_a_record_of_several_strings(self) -> None:
        """RFC 1035 §3.3.14: TXT-DATA is one or more <character-string>s; one record is one value."""
        value = txt_value(AUTHORIZATION)
        async with dns_peer() as peer:
            peer.add(ASKED, "TXT", f'"{value[:20]}" "{value[20:]}"')
            assert await judged(peer) is None

    async def test_two_records_are_not_one(self) -> None:
        value = txt_value(AUTHORIZATION)
        async with dns_peer() as peer:
            peer.add(ASKED, "TXT", f'"{value[:20]}"', f'"{value[20:]}"')
            assert await judged(peer) is not None

    async def test_by_an_alias(self) -> None:
        """The query follows aliases as any query does (RFC 1034 §3.6.2): validation can be delegated to another zone."""
        async with dns_peer() as peer:
            peer.add(ASKED, "CNAME", "www.validation.example.")
            peer.add("www.validation.example", "TXT", f'"{txt_value(AUTHORIZATION)}"')
            assert await judged(peer) is None

    async def test_no_record(self) -> None:
        """If no DNS record is found, or DNS record and response payload do not pass these checks, then the validation fails."""
        async with dns_peer() as peer:
            problem = await judged(peer)
            assert problem is not None
            assert problem.type is ProblemType.DNS

    @pytest.mark.parametrize("at", ["www.example.org", "example.org", "_acme-challenge.example.org", f"x.{ASKED}"])
    async def test_a_record_elsewhere(self, at: str) -> None:
        """§8.4: the name being validated alone counts, neither those above nor those below it."""
        async with dns_peer() as peer:
            peer.add(at, "TXT", f'"{txt_value(AUTHORIZATION)}"')
            assert await judged(peer) is not None

    @pytest.mark.parametrize(
        "value", [txt_value(AUTHORIZATION) + "=", txt_value(AUTHORIZATION)[:-1], AUTHORIZATION, "", CHALLENGE["token"]]
    )
    async def test_another_value(self, value: str) -> None:
        """… or DNS record and response payload do not pass these checks, then the validation fails."""
        async with dns_peer() as peer:
            peer.add(ASKED, "TXT", f'"{value}"')
            problem = await judged(peer)
            assert problem is not None
            assert problem.type is ProblemType.INCORRECT_RESPONSE

    @pytest.mark.parametrize("lasting", [says(dns.rcode.SERVFAIL), silence])
    async def test_no_answer(self, lasting: Behaviour) -> None:
        """§6.7: "dns: There was a problem with a DNS query during identifier validation"."""
        async with dns_peer() as peer:
            peer.always(ASKED, lasting, "TXT")
            problem = await judged(peer, attempt_timeout=patience(lasting))
            assert problem is not None
            assert problem.type is ProblemType.DNS
            assert peer.asked(ASKED, "TXT") == 3, "§8.2: it was asked again"

    @pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
    def test_never_an_address(self, address: str) -> None:
        """RFC 8738 §7: "The existing "dns-01" challenge MUST NOT be used to validate IP identifiers"."""
        with pytest.raises(ValueError, match="control of a name"):
            dns01_name(Identifier(IdentifierType.IP, address))


class TestDnsAccountLabel:
    """draft-ietf-acme-dns-account-label-03 §3."""

    def test_the_name(self) -> None:
        """§3.2: "_" || base32(SHA-256(<ACCOUNT_URL>)[0:10]) || "._acme-challenge", and its example."""
        name = dns_account01_name(Identifier(IdentifierType.DNS, "example.org"), ACCOUNT_URL)
        assert name == "_ujmmovf2vn55tgye._acme-challenge.example.org"

    def test_the_account_url_counts_to_the_letter(self) -> None:
        """§3.5: "This contains the entire URI, including the ACME endpoint domain name, port, and full HTTP path"."""
        name = Identifier(IdentifierType.DNS, "example.org")
        urls = [ACCOUNT_URL, ACCOUNT_URL + "/", ACCOUNT_URL.upper(), ACCOUNT_URL.replace(".com/", ".com:443/")]
        assert len({dns_account01_name(name, url) for url in urls}) == len(urls)

    async def test_the_steps(self) -> None:
        """§3.3: 5. Queries for TXT records at the validation domain name 6. Verifies that one TXT record matches the computed
        digest value."""
        name = dns_account01_name(NAME, ACCOUNT_URL)
        async with dns_peer() as peer:
            peer.add(name, "TXT", f'"{txt_value(AUTHORIZATION)}"')
            assert await judged(peer, name, ACCOUNT_URL) is None
            assert {question.name for question in peer.questions} == {name}

    async def test_the_record_of_dns01_does_not_count(self) -> None:
        """§3.3: the record is at the account's own name. "If no DNS record is found, or DNS record and response payload do not
        pass these checks, then the server MUST fail the validation and mark the challenge as invalid."
        """
        async with dns_peer() as peer:
            peer.add(ASKED, "TXT", f'"{txt_value(AUTHORIZATION)}"')
            assert await judged(peer, dns_account01_name(NAME, ACCOUNT_URL), ACCOUNT_URL) is not None

    async def test_the_account_url_is_in_the_problem(self) -> None:
        """§3.4: If the server is unable to find a TXT record for the validation domain name, it SHOULD include the account URL it
        used to construct the validation domain name in the problem document."""
        async with dns_peer() as peer:
            problem = await judged(peer, dns_account01_name(NAME, ACCOUNT_URL), ACCOUNT_URL)
            assert problem is not None
            assert problem.type is ProblemType.DNS
            assert ACCOUNT_URL in problem.detail
