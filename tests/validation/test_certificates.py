"""The certificate that a server shows: read strictly, or not at all (RFC 5280 §4.1, RFC 8737 §3)."""

from ipaddress import ip_address

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.tlsalpn01 import DNS_NAME, ShownAcmeIdentifier, ShownCertificate, ShownName
from acmeca.pki import der
from acmeca.validation.certificates import read_certificate
from tests.support.tls_peer import (
    ACME_IDENTIFIER,
    Extension,
    acme_identifier,
    certificate_der,
    challenge_der,
    general_name,
    san,
)

NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
GOOD = challenge_der(NAME, "token.thumbprint")
COUNTING = (
    der.oid("2.5.29.17") + der.octet_string(der.sequence(general_name(NAME))),
    der.oid("1.3.6.1.5.5.7.1.31") + der.boolean(True) + der.octet_string(acme_identifier("token.thumbprint").value),
)
BASIC_CONSTRAINTS = Extension(x509.ObjectIdentifier("2.5.29.19"), critical=True, value=der.sequence())


def assembled(*extensions: bytes, version: bytes = b"\xa0\x03\x02\x01\x02", more: bytes = b"") -> bytes:
    """A certificate of the fields that a reader walks over, with extensions as they are given."""
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    listed = der.encode(der.explicit(3), der.sequence(*extensions)) if extensions else b""
    fields = (algorithm, der.sequence(), der.sequence(), der.sequence(), der.sequence())
    tbs = der.sequence(version, der.integer(1), *fields, listed, more)
    return der.sequence(tbs, algorithm, der.bit_string(b"\0"))


def extension(oid: str, value: bytes, *, critical: bytes = b"") -> bytes:
    return der.sequence(der.oid(oid), critical, der.octet_string(value))


SAN = extension("2.5.29.17", der.sequence(der.encode(0x82, b"a.b")))
FALSE = der.boolean(False)


class TestGood:
    def test_a_challenge_certificate(self) -> None:
        read = read_certificate(GOOD)
        assert read.names == (ShownName(DNS_NAME, b"www.corp.internal"),)
        assert read.acme_identifier is not None
        assert read.acme_identifier.critical
        assert len(read.acme_identifier.value) == 34

    @pytest.mark.parametrize("address", ["10.0.0.5", "fd00::5"])
    def test_an_address(self, address: str) -> None:
        read = read_certificate(challenge_der(Identifier(IdentifierType.IP, address), "a.b"))
        assert read.names == (ShownName(0x87, ip_address(address).packed),)

    def test_without_extensions(self) -> None:
        assert read_certificate(certificate_der()) == ShownCertificate()
        assert read_certificate(assembled(version=b"")) == ShownCertificate()

    def test_other_extensions_are_passed_over(self) -> None:
        read = read_certificate(certificate_der(BASIC_CONSTRAINTS, san(general_name(NAME))))
        assert read == ShownCertificate((ShownName(DNS_NAME, b"www.corp.internal"),), None)

    def test_a_default_that_is_written_out(self) -> None:
        """X.690 §11.5 would leave it out; it reads as nothing else."""
        value = der.octet_string(bytes(32))
        read = read_certificate(assembled(extension("1.3.6.1.5.5.7.1.31", value, critical=FALSE)))
        assert read.acme_identifier == ShownAcmeIdentifier(critical=False, value=value)

    def test_unique_identifiers(self) -> None:
        """RFC 5280 §4.1.2.8: they may be there."""
        algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
        fields = (algorithm, der.sequence(), der.sequence(), der.sequence(), der.sequence())
        unique = (der.encode(0x81, b"\0\1"), der.encode(0x82, b"\0\2"))
        tbs = der.sequence(der.integer(1), *fields, *unique, der.encode(der.explicit(3), der.sequence(SAN)))
        read = read_certificate(der.sequence(tbs, algorithm, der.bit_string(b"\0")))
        assert read.names == (ShownName(DNS_NAME, b"a.b"),)

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.tuples(st.sampled_from([0x81, 0x82, 0x86, 0x87]), st.binary(max_size=200)), max_size=5),
        st.booleans(),
        st.binary(max_size=40),
        st.booleans(),
    )
    def test_it_reads_what_was_written(
        self,
        names: list[tuple[int, bytes]],
        san_critical: bool,  # noqa: FBT001  (hypothesis gives it by place)
        value: bytes,
        critical: bool,  # noqa: FBT001  (as above)
    ) -> None:
        encoding = certificate_der(
            san(*(der.encode(*name) for name in names), critical=san_critical),
            Extension(ACME_IDENTIFIER, critical, value),
        )
        read = read_certificate(encoding)
        assert read == ShownCertificate(tuple(ShownName(*name) for name in names), ShownAcmeIdentifier(critical, value))

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.from_regex(r"[a-zA-Z0-9.*_-]{1,80}", fullmatch=True), min_size=1, max_size=4))
    def test_it_reads_as_the_library_does(self, names: list[str]) -> None:
        encoding = certificate_der(san(*(der.encode(0x82, name.encode()) for name in names)))
        extensions = x509.load_der_x509_certificate(encoding).extensions
        written = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        read = read_certificate(encoding).names
        assert read is not None
        assert [name.value.decode() for name in read] == written.get_values_for_type(x509.DNSName) == names


class TestBad:
    @pytest.mark.parametrize(
        ("encoding", "said"),
        [
            (b"", "the data end"),
            (GOOD + b"\0", "1 bytes follow"),
            (GOOD[:-1], "stands where"),
            (b"\x30\x80" + GOOD[4:] + b"\0\0", "indefinite"),
            (assembled(SAN, SAN), "twice"),
            (assembled(SAN, extension("2.5.29.19", b""), extension("2.5.29.19", b"")), "twice"),
            (assembled(*(extension(f"1.2.{number}", b"") for number in range(65))), "more than 64"),
            (assembled(SAN, more=b"\x05\x00"), "follow where"),
            (assembled(extension("2.5.29.17", b"")), "the data end"),
            (assembled(extension("2.5.29.17", b"\x30\x00\x00")), "1 bytes follow"),
            (assembled(extension("2.5.29.17", b"\x30\x03\x82\x05a")), "stands where"),
            (assembled(extension("2.5.29.17", b"\x31\x00")), "tag 0x31"),
            (assembled(extension("2.5.29.17", b"\x30\x00", critical=b"\x01\x01\x01")), "neither 00 nor ff"),
            (assembled(der.sequence(der.oid("2.5.29.17"))), "the data end"),
            (assembled(der.sequence(der.octet_string(b""))), "tag 0x04"),
        ],
    )
    def test_examples(self, encoding: bytes, said: str) -> None:
        with pytest.raises(der.DerError, match=said):
            read_certificate(encoding)

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Rule 1: a value or a `DerError`."""
        for encoding in (data, der.sequence(data), assembled(data), assembled(extension("2.5.29.17", data))):
            try:
                read_certificate(encoding)
            except der.DerError as error:
                assert str(error).isprintable()  # noqa: PT017  (it is what goes into a problem)

    @settings(deadline=None, max_examples=300)
    @given(st.integers(0, len(GOOD) * 8 - 1))
    def test_one_bit_turned(self, bit: int) -> None:
        """Rule 1: nothing of the two extensions that count is skipped or repaired: other bytes never read the same."""
        data = (int.from_bytes(GOOD) ^ 1 << bit).to_bytes(len(GOOD))
        try:
            read = read_certificate(data)
        except der.DerError:
            return
        if read == read_certificate(GOOD):
            assert all(part in data for part in COUNTING)

    @pytest.mark.parametrize("where", ["names", "extensions"])
    def test_as_large_as_a_handshake_may_be(self, where: str) -> None:
        """Linear in what is there."""
        if where == "names":
            encoding = assembled(extension("2.5.29.17", der.sequence(*[der.encode(0x82, b"a")] * 9000)))
            assert len(read_certificate(encoding).names or ()) == 9000
        else:
            encoding = assembled(*(extension(f"1.2.{number}", b"") for number in range(4000)))
            with pytest.raises(der.DerError):
                read_certificate(encoding)
