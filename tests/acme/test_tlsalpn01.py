"""tls-alpn-01 (RFC 8737 §3): the judgement of observations."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import Attempt, FailureKind, ObservedFailure
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.tlsalpn01 import (
    DNS_NAME,
    IP_ADDRESS,
    ShownAcmeIdentifier,
    ShownCertificate,
    ShownName,
    TlsAlpn01Observation,
    judge_tlsalpn01,
    server_name,
)

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
EXPECTED = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
DIGEST = hashlib.sha256(EXPECTED.encode()).digest()
NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
IPV4 = Identifier(IdentifierType.IP, "10.0.0.5")
IPV6 = Identifier(IdentifierType.IP, "fd00::5")
PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))

RIGHT_NAME = ShownName(DNS_NAME, b"www.corp.internal")
RIGHT_IDENTIFIER = ShownAcmeIdentifier(critical=True, value=b"\x04\x20" + DIGEST)


def seen(
    *names: ShownName,
    identifier: Identifier = NAME,
    acme_identifier: ShownAcmeIdentifier | None = RIGHT_IDENTIFIER,
    version: str | None = "TLSv1.3",
    protocol: str | None = "acme-tls/1",
) -> TlsAlpn01Observation:
    """A completed handshake with a certificate."""
    return TlsAlpn01Observation(
        identifier,
        server_name(identifier),
        443,
        attempts=(Attempt("10.0.0.5:443", None),),
        version=version,
        protocol=protocol,
        certificate=ShownCertificate(names, acme_identifier),
    )


def failed(kind: FailureKind, detail: str = "it broke") -> TlsAlpn01Observation:
    return TlsAlpn01Observation(NAME, NAME.value, 443, failure=ObservedFailure(kind, detail))


def is_valid(observation: TlsAlpn01Observation) -> bool:
    return judge_tlsalpn01(observation, expected=EXPECTED) is None


def judged(observation: TlsAlpn01Observation) -> Problem:
    problem = judge_tlsalpn01(observation, expected=EXPECTED)
    assert problem is not None
    assert set(problem.detail) <= PRINTABLE
    assert len(problem.detail) < 600
    assert problem.detail.startswith("acme-tls/1 with SNI ")
    json.dumps(problem.to_json())
    return problem


class TestSuccess:
    @pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
    def test_the_name_and_the_digest(self, version: str) -> None:
        assert is_valid(seen(RIGHT_NAME, version=version))

    @pytest.mark.parametrize("written", [b"WWW.Corp.INTERNAL", b"www.corp.internaL"])
    def test_names_are_compared_without_case(self, written: bytes) -> None:
        """§3: "The comparison of dNSNames MUST be case insensitive [RFC4343].\""""
        assert is_valid(seen(ShownName(DNS_NAME, written)))

    @pytest.mark.parametrize(
        ("identifier", "value"), [(IPV4, b"\x0a\x00\x00\x05"), (IPV6, b"\xfd" + bytes(14) + b"\x05")]
    )
    def test_an_address(self, identifier: Identifier, value: bytes) -> None:
        assert is_valid(seen(ShownName(IP_ADDRESS, value), identifier=identifier))


class TestNames:
    @pytest.mark.parametrize(
        "names",
        [
            (),
            (RIGHT_NAME, RIGHT_NAME),
            (RIGHT_NAME, ShownName(DNS_NAME, b"other.corp.internal")),
            (RIGHT_NAME, ShownName(IP_ADDRESS, b"\x0a\x00\x00\x05")),
            (ShownName(0x86, b"https://www.corp.internal"), RIGHT_NAME),
            (ShownName(DNS_NAME, b"other.corp.internal"),),
            (ShownName(DNS_NAME, b"*.corp.internal"),),
            (ShownName(DNS_NAME, b"www.corp.internal."),),
            (ShownName(DNS_NAME, b"www.corp.internal\0"),),
            (ShownName(DNS_NAME, b" www.corp.internal"),),
            (ShownName(DNS_NAME, b"corp.internal"),),
            (ShownName(DNS_NAME, b""),),
            (ShownName(0x81, b"www.corp.internal"),),
            (ShownName(0x86, b"www.corp.internal"),),
            (ShownName(0xA4, b"www.corp.internal"),),
            (ShownName(DNS_NAME, "www.corp.\u212anternal".encode()),),  # lower() of the Kelvin sign is k, for text
        ],
    )
    def test_anything_but_the_one_name(self, names: tuple[ShownName, ...]) -> None:
        """§3: "containing the dNSName being validated and no other entries"."""
        problem = judged(seen(*names))
        assert problem.type is ProblemType.INCORRECT_RESPONSE
        assert "subjectAltName" in problem.detail
        assert "www.corp.internal alone" in problem.detail

    @pytest.mark.parametrize(
        ("identifier", "name"),
        [
            (IPV4, ShownName(IP_ADDRESS, b"\x0a\x00\x00\x06")),
            (IPV4, ShownName(IP_ADDRESS, bytes(10) + b"\xff\xff\x0a\x00\x00\x05")),  # the same, v4-mapped
            (IPV4, ShownName(DNS_NAME, b"10.0.0.5")),
            (IPV4, ShownName(DNS_NAME, b"5.0.0.10.in-addr.arpa")),  # what was asked for is not what it is
            (IPV4, ShownName(IP_ADDRESS, b"\x0a\x00\x00\x05\xff\xff\xff\xff")),  # with a mask, as in name constraints
            (IPV6, ShownName(IP_ADDRESS, b"\x0a\x00\x00\x05")),
            (NAME, ShownName(IP_ADDRESS, b"www.corp.internal")),
        ],
    )
    def test_an_address_is_an_address(self, identifier: Identifier, name: ShownName) -> None:
        assert judged(seen(name, identifier=identifier)).type is ProblemType.INCORRECT_RESPONSE

    def test_none_at_all(self) -> None:
        observation = replace(seen(), certificate=ShownCertificate(None, RIGHT_IDENTIFIER))
        assert "has no subjectAltName" in judged(observation).detail

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.builds(ShownName, st.sampled_from([0x82, 0x87, 0x86, 0xA0]), st.binary(max_size=90)), max_size=3)
    )
    def test_no_other_names_whatever_they_are(self, names: list[ShownName]) -> None:
        """Rule 4 of acme/tlsalpn01.py holds for whatever stands there."""
        if names != [RIGHT_NAME]:
            judged(seen(*names))


class TestAcmeIdentifier:
    def test_missing(self) -> None:
        assert "has no acmeIdentifier" in judged(seen(RIGHT_NAME, acme_identifier=None)).detail

    def test_not_critical(self) -> None:
        """§3: "The acmeIdentifier extension MUST be critical"."""
        problem = judged(seen(RIGHT_NAME, acme_identifier=replace(RIGHT_IDENTIFIER, critical=False)))
        assert "not critical" in problem.detail

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            DIGEST,  # without its OCTET STRING
            b"\x04\x20",
            b"\x04\x1f" + DIGEST[:31],
            b"\x04\x21" + DIGEST + b"\0",
            b"\x04\x20" + DIGEST + b"\0",
            b"\x04\x81\x20" + DIGEST,  # BER
            b"\x24\x22\x04\x20" + DIGEST,  # constructed
            b"\x0c\x20" + DIGEST,
            b"\x04\x22\x04\x20" + DIGEST,  # wrapped twice
            b"\x04\x40" + DIGEST.hex().encode(),
        ],
    )
    def test_another_form(self, value: bytes) -> None:
        """§3: "Authorization ::= OCTET STRING (SIZE (32))"."""
        problem = judged(seen(RIGHT_NAME, acme_identifier=replace(RIGHT_IDENTIFIER, value=value)))
        assert problem.type is ProblemType.INCORRECT_RESPONSE
        assert "OCTET STRING of 32 bytes" in problem.detail

    @pytest.mark.parametrize(
        ("digested", "hint"), [("another.one", "the ACME client that ordered"), (TOKEN, "token alone")]
    )
    def test_another_digest(self, digested: str, hint: str) -> None:
        value = b"\x04\x20" + hashlib.sha256(digested.encode()).digest()
        problem = judged(seen(RIGHT_NAME, acme_identifier=replace(RIGHT_IDENTIFIER, value=value)))
        assert "another digest" in problem.detail
        assert hint in problem.detail

    @settings(deadline=None, max_examples=100)
    @given(st.one_of(st.binary(max_size=60), st.integers(0, 8 * 34 - 1)), st.booleans())
    def test_no_other_value(self, change: bytes | int, critical: bool) -> None:  # noqa: FBT001  (hypothesis gives it by place)
        """Other bytes, and the right ones with one bit turned."""
        right = RIGHT_IDENTIFIER.value
        value = change if isinstance(change, bytes) else (int.from_bytes(right) ^ 1 << change).to_bytes(len(right))
        if value != right or not critical:
            judged(seen(RIGHT_NAME, acme_identifier=ShownAcmeIdentifier(critical, value)))


class TestHandshake:
    @pytest.mark.parametrize("protocol", [None, "", "http/1.1", "h2", "acme-tls/1.0", "ACME-TLS/1", "acme-tls/2"])
    def test_another_protocol(self, protocol: str | None) -> None:
        """§3, step 4."""
        problem = judged(seen(RIGHT_NAME, protocol=protocol))
        assert problem.type is ProblemType.INCORRECT_RESPONSE
        assert "did not select the protocol acme-tls/1" in problem.detail

    def test_of_another_server_nothing_is_shown(self) -> None:
        """Rule 4 of acme/tlsalpn01.py."""
        assert "secret" not in judged(seen(ShownName(DNS_NAME, b"secret.internal"), protocol=None)).detail

    @pytest.mark.parametrize("version", [None, "TLSv1.1", "TLSv1", "SSLv3"])
    def test_an_older_version(self, version: str | None) -> None:
        """§4: "MUST only negotiate TLS 1.2 [RFC5246] or higher"."""
        assert judged(seen(RIGHT_NAME, version=version)).type is ProblemType.INCORRECT_RESPONSE

    def test_no_certificate(self) -> None:
        assert judged(replace(seen(), certificate=None)).type is ProblemType.INCORRECT_RESPONSE

    @pytest.mark.parametrize(
        ("kind", "type_"),
        [
            (FailureKind.RESOLUTION, ProblemType.DNS),
            (FailureKind.NOT_ALLOWED, ProblemType.CONNECTION),
            (FailureKind.CONNECT, ProblemType.CONNECTION),
            (FailureKind.TLS, ProblemType.TLS),
            (FailureKind.TIMEOUT, ProblemType.CONNECTION),
            (FailureKind.CLOSED, ProblemType.CONNECTION),
            (FailureKind.RESPONSE, ProblemType.INCORRECT_RESPONSE),
        ],
    )
    def test_every_kind_of_failure_has_its_problem_type(self, kind: FailureKind, type_: ProblemType) -> None:
        problem = judged(failed(kind))
        assert problem.type is type_
        assert "it broke. Check" in problem.detail
        assert judged(replace(seen(RIGHT_NAME), failure=ObservedFailure(kind, "it broke"))).type is type_


class TestDetail:
    def test_what_was_asked_of_whom(self) -> None:
        detail = judged(seen(ShownName(DNS_NAME, b"other.corp.internal"))).detail
        assert detail.startswith(
            "acme-tls/1 with SNI www.corp.internal at 10.0.0.5:443: the certificate's subjectAltName is "
            'the dNSName "other.corp.internal", and not the dNSName www.corp.internal alone. Check'
        )

    def test_without_a_connection(self) -> None:
        detail = judged(failed(FailureKind.CONNECT, "no connection")).detail
        assert detail.startswith("acme-tls/1 with SNI www.corp.internal port 443: no connection. Check")

    def test_several_names_are_counted(self) -> None:
        names = tuple(ShownName(DNS_NAME, f"n{number}.internal".encode()) for number in range(100))
        assert '"n0.internal" and 99 more' in judged(seen(*names)).detail

    def test_what_a_peer_wrote_is_escaped_and_cut(self) -> None:
        """RULES §3: "only escaped and cut to 64 bytes"."""
        detail = judged(seen(ShownName(DNS_NAME, b'"\n\x1b[31m' + b"a" * 300))).detail
        assert "\\x22\\x0a\\x1b[31m" in detail
        assert "a" * 64 not in detail

    def test_an_address_is_shown_as_one(self) -> None:
        detail = judged(seen(ShownName(IP_ADDRESS, b"\x0a\x00\x00\x06"), identifier=IPV4)).detail
        assert 'is the iPAddress "10.0.0.6", and' in detail

    def test_an_address_that_is_shown_as_a_name_is_told_apart(self) -> None:
        """RFC 8738 §6 asks for an iPAddress; acmez of 2022 (Caddy 2.6) writes a dNSName, which would read the same."""
        detail = judged(seen(ShownName(DNS_NAME, b"10.0.0.5"), identifier=IPV4)).detail
        assert 'is the dNSName "10.0.0.5", and not the iPAddress 10.0.0.5 alone' in detail
