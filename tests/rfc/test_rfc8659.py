"""RFC 8659, CAA records, and RFC 8657, their parameters for accounts and methods: each MUST of a CA, with its sentence.

The records are asked for over a DNS server on loopback and judged as before an issuance.
"""

from collections.abc import Sequence

import dns.rcode
import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import ProblemType
from acmeca.policy.caa import CaaPolicy, CaaRecord
from acmeca.service.caa import Caa, Shown
from acmeca.urls import Urls
from acmeca.validation.caa import CaaObserver
from tests.support.dns_peer import Behaviour, DnsPeer, client_of, dns_peer, patience, says, silence

URLS = Urls(base="https://example.net", status="http://example.net")
ACCOUNT = "1234"
ACCOUNT_URL = URLS.account(ACCOUNT)


async def refused(
    peer: DnsPeer,
    *names: str,
    we: str = "ca1.example.net",
    account: str = ACCOUNT,
    method: str = "dns-01",
    attempt_timeout: float = 2,
) -> dict[str, ProblemType]:
    """The names of a request that CAA refuses to the CA `we`."""
    caa = Caa(
        CaaPolicy((we,)), observer=CaaObserver(client_of(peer.server, attempt_timeout=attempt_timeout)), urls=URLS
    )
    shown = [Shown(Identifier(IdentifierType.DNS, name), method) for name in names]
    problems = await caa.problems(account, shown)
    return {str(problem.identifier): problem.type for problem in problems}


async def allowed(peer: DnsPeer, name: str, **how: str) -> bool:
    return not await refused(peer, name, **how)


def forbidden(*names: str) -> dict[str, ProblemType]:
    return dict.fromkeys(names, ProblemType.CAA)


class TestRfc8659Section3:
    async def test_the_relevant_rrset_is_looked_for_and_binds(self) -> None:
        """Before issuing a certificate, a compliant CA MUST check for publication of a Relevant RRset. If such an RRset exists,
        a CA MUST NOT issue a certificate unless the CA determines that … the certificate request is consistent with the
        applicable CAA RRset §5.1: "An Issuer MUST NOT issue certificates if doing so would conflict with the Relevant RRset,
        irrespective of whether the corresponding DNS records are signed."
        """
        async with dns_peer() as peer:
            peer.add("example.com", "CAA", '0 issue "ca1.example.net"')
            assert await allowed(peer, "example.com")
            assert await refused(peer, "example.com", we="ca2.example.org") == forbidden("example.com")

    async def test_every_name_of_the_request(self) -> None:
        """Issuers MUST verify authorization for all the FQDNs and Wildcard Domain Names specified in the request."""
        async with dns_peer() as peer:
            peer.add("a.example.com", "CAA", '0 issue "ca1.example.net"')
            peer.add("b.example.com", "CAA", '0 issue "ca2.example.org"')
            peer.add("c.example.com", "CAA", '0 issuewild ";"')
            names = ("a.example.com", "b.example.com", "c.example.com", "*.c.example.com", "d.example.com")
            assert await refused(peer, *names) == forbidden("b.example.com", "*.c.example.com")

    @pytest.mark.parametrize("records", [['0 iodef "mailto:security@example.com"'], ['0 tbs "Unknown"', '0 iodef "x"']])
    async def test_what_does_not_restrict(self, records: list[str]) -> None:
        """If the Relevant RRset for an FQDN or Wildcard Domain Name contains no Property Tags that restrict issuance (for
        instance, if it contains only iodef Property Tags or only Property Tags unrecognized by the CA), CAA does not restrict
        issuance."""
        async with dns_peer() as peer:
            peer.add("example.com", "CAA", *records)
            peer.add("com", "CAA", '0 issue ";"')
            assert await refused(peer, "example.com", "*.example.com") == {}

    async def test_the_climb_without_records(self) -> None:
        """CAA("X.Y.Z.") = Empty; domain = Parent("X.Y.Z.") = "Y.Z." … CAA("Z.") = Empty; domain = Parent("Z.") = "." return
        Empty"""
        async with dns_peer() as peer:
            assert await allowed(peer, "x.y.z")
            assert [question.name for question in peer.questions] == ["x.y.z", "y.z", "z"]

    async def test_the_climb_ends_where_records_are(self) -> None:
        """CAA("A.B.C.") = Empty; domain = Parent("A.B.C.") = "B.C." CAA("B.C.") = "issue example.com" return "issue
        example.com\""""
        async with dns_peer() as peer:
            peer.add("b.c", "CAA", '0 issue "example.com"')
            peer.add("c", "CAA", '0 issue ";"')
            assert await allowed(peer, "a.b.c", we="example.com")
            assert [question.name for question in peer.questions] == ["a.b.c", "b.c"]

    async def test_a_wildcard_is_searched_for_from_the_name_below_it(self) -> None:
        """Given a request for a specific FQDN X or a request for a Wildcard Domain Name *.X, the Relevant RRset RelevantCAASet(X)
        is determined as follows"""
        async with dns_peer() as peer:
            assert await allowed(peer, "*.x.y")
            assert [question.name for question in peer.questions] == ["x.y", "y"]

    async def test_aliases(self) -> None:
        """Let CAA(X) be the RRset returned by performing a CAA record query for the FQDN X, according to the lookup algorithm
        specified in Section 4.3.2 of [RFC1034] (in particular, chasing aliases). Let Parent(X) be the FQDN produced by removing
        the leftmost label of X."""
        async with dns_peer() as peer:
            peer.add("www.example.com", "CNAME", "host.example.org.")
            peer.add("host.example.org", "CAA", '0 issue "ca2.example.org"')
            peer.add("example.com", "CAA", '0 issue "ca1.example.net"')
            assert await refused(peer, "www.example.com") == forbidden("www.example.com")
            peer.add("blog.example.com", "CNAME", "empty.example.org.")
            peer.add("empty.example.org", "A", "192.0.2.1")
            peer.add("example.org", "CAA", '0 issue "ca2.example.org"')
            assert await allowed(peer, "blog.example.com"), "the parent of the name itself"

    @pytest.mark.parametrize("lasting", [says(dns.rcode.SERVFAIL), says(dns.rcode.REFUSED), silence])
    async def test_a_lookup_that_fails_proves_no_absence(self, lasting: Behaviour) -> None:
        """ "… a compliant CA MUST check for publication of a Relevant RRset": who could not check, does not issue."""
        async with dns_peer() as peer:
            peer.add("com", "CAA", '0 issue "ca1.example.net"')
            peer.always("example.com", lasting, "CAA")
            answered = await refused(peer, "www.example.com", attempt_timeout=patience(lasting))
            assert answered == {"www.example.com": ProblemType.DNS}


class TestRfc8659Section4_1:  # noqa: N801  (the section's number)
    @pytest.mark.parametrize("name", ["new.example.com", "*.new.example.com"])
    async def test_critical_and_unknown(self, name: str) -> None:
        """A CA MUST NOT issue certificates for any FQDN if the Relevant RRset for that FQDN contains a CAA critical Property
        for an unknown or unsupported Property Tag. (§4.5's example: 128 tbs "Unknown") §4.5: new semantics that MUST be
        understood for correct processing of the record
        """
        async with dns_peer() as peer:
            peer.add("new.example.com", "CAA", '0 issue "ca1.example.net"', '128 tbs "Unknown"')
            assert await refused(peer, name) == forbidden(name)

    @pytest.mark.parametrize("flags", [1, 64, 127])
    async def test_reserved_flags(self, flags: int) -> None:
        """Applications that interpret CAA records MUST ignore the value of all reserved flag bits."""
        assert not CaaRecord(flags, b"tbs", b"").is_critical
        assert CaaRecord(128 + flags, b"tbs", b"").is_critical
        async with dns_peer() as peer:
            peer.add("example.com", "CAA", f'{flags} tbs "Unknown"', f'{flags} issue "ca1.example.net"')
            assert await allowed(peer, "example.com")

    async def test_tags_in_capitals(self) -> None:
        """Matching of tags is case insensitive."""
        async with dns_peer() as peer:
            peer.add("example.com", "CAA", '0 ISSUE ";"', '0 IssueWild "ca1.example.net"', '128 IODEF "mailto:x"')
            assert await refused(peer, "example.com", "*.example.com") == forbidden("example.com")


class TestRfc8659Section4_2:  # noqa: N801  (the section's number)
    async def test_several_issuers(self) -> None:
        """… requests that no certificates be issued for the FQDN "certs.example.com" by any Issuer other than ca1.example.net or
        ca2.example.org."""
        async with dns_peer() as peer:
            peer.add("certs.example.com", "CAA", '0 issue "ca1.example.net"', '0 issue "ca2.example.org"')
            assert await allowed(peer, "certs.example.com")
            assert await allowed(peer, "certs.example.com", we="ca2.example.org")
            assert not await allowed(peer, "certs.example.com", we="ca3.example.org")

    async def test_no_issuer(self) -> None:
        """… requests that no certificates be issued for the FQDN "nocerts.example.com" by any Issuer: nocerts.example.com CAA 0
        issue ";\""""
        async with dns_peer() as peer:
            peer.add("nocerts.example.com", "CAA", '0 issue ";"')
            assert await refused(peer, "nocerts.example.com") == forbidden("nocerts.example.com")

    async def test_malformed(self) -> None:
        """An issue Property Tag where the issue-value does not match the ABNF grammar MUST be treated the same as one specifying
        an empty issuer-domain-name: malformed.example.com CAA 0 issue "%%%%%\""""
        async with dns_peer() as peer:
            peer.add("malformed.example.com", "CAA", '0 issue "%%%%%"')
            assert await refused(peer, "malformed.example.com") == forbidden("malformed.example.com")

    async def test_additive(self) -> None:
        """CAA authorizations are additive; thus, the result of specifying both an empty issuer-domain-name and a non-empty
        issuer-domain-name is the same as specifying just the non-empty issuer-domain-name."""
        async with dns_peer() as peer:
            peer.add("example.com", "CAA", '0 issue ";"', '0 issue "ca1.example.net"', '0 issue "%%%%%"')
            assert await allowed(peer, "example.com")

    async def test_parameters_of_others_are_theirs(self) -> None:
        """The semantics of parameters to the issue Property Tag are determined by the Issuer alone: accountable.example.com CAA 0
        issue "ca1.example.net; account=230123\""""
        async with dns_peer() as peer:
            peer.add("accountable.example.com", "CAA", '0 issue "ca1.example.net; account=230123"')
            assert not await allowed(peer, "accountable.example.com"), (
                "we know no such parameter, and so do not meet it"
            )
            peer.add("accountable.example.com", "CAA", '0 issue "ca2.example.org"')
            assert await allowed(peer, "accountable.example.com", we="ca2.example.org")


class TestRfc8659Section4_3:  # noqa: N801  (the section's number)
    async def test_issuewild_of_other_names(self) -> None:
        """Each issuewild Property MUST be ignored when processing a request for an FQDN that is not a Wildcard Domain Name."""
        async with dns_peer() as peer:
            peer.add("example.com", "CAA", '0 issuewild ";"')
            assert await allowed(peer, "example.com")
            peer.add("example.com", "CAA", '0 issuewild "ca1.example.net"', '0 issue ";"')
            assert not await allowed(peer, "example.com")

    async def test_issuewild_before_issue(self) -> None:
        """If at least one issuewild Property is specified in the Relevant RRset for a Wildcard Domain Name, each issue Property
        MUST be ignored when processing a request for that Wildcard Domain Name."""
        async with dns_peer() as peer:
            peer.add("wild.example.com", "CAA", '0 issue "ca1.example.net"', '0 issuewild "ca2.example.org"')
            names = ("wild.example.com", "sub.wild.example.com", "*.wild.example.com", "*.sub.wild.example.com")
            assert await refused(peer, *names) == forbidden(*names[2:])
            assert await refused(peer, *names, we="ca2.example.org") == forbidden(*names[:2])

    async def test_issue_for_wildcards(self) -> None:
        """… requests that only ca1.example.net issue certificates for "wild2.example.com". It also permits ca1.example.net to
        issue certificates for "*.wild2.example.com" and "*.sub.wild2.example.com"."""
        async with dns_peer() as peer:
            peer.add("wild2.example.com", "CAA", '0 issue "ca1.example.net"')
            names = ("wild2.example.com", "*.wild2.example.com", "*.sub.wild2.example.com")
            assert await refused(peer, *names) == {}
            assert await refused(peer, *names, we="ca2.example.org") == forbidden(*names)

    async def test_issuewild_alone(self) -> None:
        """… only ca2.example.org issue certificates for "*.wild3.example.com" or "*.sub.wild3.example.com", and no Issuer for
        "wild3.example.com" or "sub.wild3.example.com"."""
        async with dns_peer() as peer:
            peer.add("wild3.example.com", "CAA", '0 issuewild "ca2.example.org"', '0 issue ";"')
            names = ("*.wild3.example.com", "*.sub.wild3.example.com", "wild3.example.com", "sub.wild3.example.com")
            assert await refused(peer, *names, we="ca2.example.org") == forbidden(*names[2:])
            assert await refused(peer, *names) == forbidden(*names)


class TestRfc8657:
    """The examples of its appendix A, with our account's URL as the first, and its sections 3 and 4."""

    @staticmethod
    async def outcomes(peer: DnsPeer, records: Sequence[str], *requests: tuple[str, str]) -> list[bool]:
        peer.add("example.com", "CAA", *(f'0 issue "{record}"' for record in records))
        return [
            await allowed(peer, "example.com", we="example.net", account=account, method=method)
            for account, method in requests
        ]

    async def test_accounts(self) -> None:
        """§3: Where a CAA Property has an "accounturi" parameter, a CA MUST only consider that Property to authorize issuance
        in the context of a given certificate issuance request if the CA recognizes the URI specified in the value portion of
        that parameter as identifying the account making that request. §3.1: implementations … that also implement ACME MUST
        recognize such URIs [of ACME account objects]. §5.4: CAs MUST satisfy this requirement by using URIs that include an
        authority
        """
        records = [f"example.net; accounturi={ACCOUNT_URL}", f"example.net; accounturi={URLS.account('2345')}"]
        async with dns_peer() as peer:
            requests = ((ACCOUNT, "dns-01"), ("2345", "dns-01"), ("3456", "dns-01"))
            assert await self.outcomes(peer, records, *requests) == [True, True, False]

    @pytest.mark.parametrize(
        "parameters", ["accounturi=abc", "accounturi=", f"accounturi={ACCOUNT_URL}; accounturi={ACCOUNT_URL}"]
    )
    async def test_unsatisfiable_accounts(self, parameters: str) -> None:
        """§3: A Property with an invalid or unrecognized "accounturi" parameter is unsatisfiable. A Property with multiple
        "accounturi" parameters is unsatisfiable."""
        async with dns_peer() as peer:
            assert await self.outcomes(peer, [f"example.net; {parameters}"], (ACCOUNT, "dns-01")) == [False]

    async def test_any_account(self) -> None:
        """§3: A Property without an "accounturi" parameter matches any account."""
        async with dns_peer() as peer:
            assert await self.outcomes(peer, ["example.net"], (ACCOUNT, "dns-01"), ("x", "dns-01")) == [True, True]

    async def test_the_issuer_still_counts(self) -> None:
        """§3: The presence of an "accounturi" parameter does not replace or supersede the need to validate the domain name
        specified in an "issue" or "issuewild" record CAs MUST still perform such validation.
        """
        async with dns_peer() as peer:
            records = [f"example.org; accounturi={ACCOUNT_URL}"]
            assert await self.outcomes(peer, records, (ACCOUNT, "dns-01")) == [False]

    @pytest.mark.parametrize(
        "records",
        [
            ["example.net; validationmethods=dns-01,xyz-01"],
            ["example.net; validationmethods=dns-01", "example.net; validationmethods=xyz-01"],
        ],
    )
    async def test_methods(self, records: list[str]) -> None:
        """§4: A CA MUST only consider a Property with the "validationmethods" parameter to authorize issuance where the
        validation method being used is identified by one of the validation method labels listed in the comma-separated list."""
        async with dns_peer() as peer:
            requests = [(ACCOUNT, method) for method in ("dns-01", "xyz-01", "http-01", "dns-account-01")]
            assert await self.outcomes(peer, records, *requests) == [True, True, False, False]

    async def test_methods_per_account(self) -> None:
        """Appendix A: one account can be used to issue with the "dns-01" method and one account can be used to issue with the
        "http-01" method."""
        records = [
            f"example.net; accounturi={ACCOUNT_URL}; validationmethods=dns-01",
            f"example.net; accounturi={URLS.account('2345')}; validationmethods=http-01",
        ]
        async with dns_peer() as peer:
            requests = [(account, method) for account in (ACCOUNT, "2345") for method in ("dns-01", "http-01")]
            assert await self.outcomes(peer, records, *requests) == [True, False, False, True]

    async def test_no_methods(self) -> None:
        """§4: … a comma-separated string of zero or more validation method labels: with none, none will do."""
        async with dns_peer() as peer:
            assert await self.outcomes(peer, ["example.net; validationmethods="], (ACCOUNT, "dns-01")) == [False]
