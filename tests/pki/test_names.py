"""`pki/names.py`: name constraints as RFC 5280 §4.2.1.10 has them, and the Names of issuers."""

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der
from acmeca.pki.names import build_distinguished_name, permitted_by
from tests.support.authorities import Forgery, constrained, intermediate
from tests.support.csrs import extension

PROPERTY = settings(max_examples=100, deadline=None)


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def networks(*texts: str) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_network(text)) for text in texts]


def is_permitted(
    name: str,
    *,
    permitted: list[x509.GeneralName] | None = None,
    excluded: list[x509.GeneralName] | None = None,
    critical: bool = True,
    has_subject: bool = False,
) -> bool:
    issuer = constrained(x509.NameConstraints(permitted, excluded), critical=critical)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return not permitted_by(issuer.certificate, (name,), (), has_subject=has_subject)
    return not permitted_by(issuer.certificate, (), (name,), has_subject=has_subject)


def test_no_constraints_no_reasons() -> None:
    assert permitted_by(intermediate().issuer.certificate, ("a.example", "*.b"), ("10.0.0.1",), has_subject=True) == []


@pytest.mark.parametrize(
    ("name", "constraint", "allowed"),
    [
        ("host.example.com", "host.example.com", True),
        ("www.host.example.com", "host.example.com", True),
        ("a.b.host.example.com", "host.example.com", True),
        ("host1.example.com", "host.example.com", False),  # §4.2.1.10 has this example
        ("example.com", "host.example.com", False),
        ("xhost.example.com", "host.example.com", False),
        ("host.example.com.evil", "host.example.com", False),
        ("anything.at.all", "", True),
        ("host.example.com", "HOST.Example.COM", True),
        ("*.example.com", "example.com", True),
        ("*.sub.example.com", "example.com", True),
        ("*.com", "example.com", False),
        ("*.example.com", "host.example.com", False),  # only some of its names
        ("*.xexample.com", "example.com", False),
        ("www.example.com", ".example.com", True),
        ("example.com", ".example.com", False),
        ("*.example.com", ".example.com", True),
        ("*.com", ".example.com", False),
        ("www.example.com", "example.com.", False),  # no host name; nothing equals it
    ],
)
def test_permitted_dns_names(name: str, constraint: str, *, allowed: bool) -> None:
    """§4.2.1.10: "Any DNS name that can be constructed by simply adding zero or more labels to the left-hand side of the
    name satisfies the name constraint." A wildcard needs all names that it stands for.
    """
    assert is_permitted(name, permitted=dns(constraint)) is allowed
    assert is_permitted(name, permitted=dns("other.test", constraint)) is allowed  # one permitted subtree is enough


@pytest.mark.parametrize(
    ("name", "constraint", "allowed"),
    [
        ("host.example.com", "host.example.com", False),
        ("www.host.example.com", "host.example.com", False),
        ("www.host.example.com", "HOST.example.com", False),
        ("example.com", "host.example.com", True),
        ("xhost.example.com", "host.example.com", True),
        ("other.example.com", "host.example.com", True),
        ("a.example", "", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", "host.example.com", False),  # host.example.com could hide under it
        ("*.example.com", "deep.host.example.com", False),  # for verifiers whose asterisk spans labels
        ("*.host.example.com", "other.example.com", True),
        ("*.ample.com", "example.com", True),
        ("www.example.com", ".example.com", False),
        ("example.com", ".example.com", False),  # the reading that issues less
        ("www.example.com", "example.com.", False),
    ],
)
def test_excluded_dns_names(name: str, constraint: str, *, allowed: bool) -> None:
    """§4.2.1.10: "Any name matching a restriction in the excludedSubtrees field is invalid regardless of information
    appearing in the permittedSubtrees."
    """
    assert is_permitted(name, excluded=dns(constraint)) is allowed
    assert is_permitted(name, excluded=dns("other.test", constraint), permitted=dns("")) is allowed


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3/32", True),
        ("10.1.2.4", "10.1.2.3/32", False),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db9::1", "2001:db8::/32", False),
        ("2001:db8::1", "0.0.0.0/0", False),
        ("10.1.2.3", "::/0", False),
    ],
)
def test_ip_addresses(address: str, network: str, *, inside: bool) -> None:
    """§4.2.1.10: iPAddress constraints hold address and mask. One name form serves both families, so a permitted network of
    one of them permits no address of the other.
    """
    assert is_permitted(address, permitted=networks(network)) is inside
    assert is_permitted(address, excluded=networks(network)) is not inside


def test_restrictions_apply_to_their_own_form_only() -> None:
    """§4.2.1.10: "Restrictions apply only when the specified name form is present.\""""
    assert is_permitted("10.0.0.1", permitted=dns("corp.internal"))
    assert is_permitted("a.example", permitted=networks("10.0.0.0/8"))
    assert is_permitted("10.0.0.1", excluded=dns(""))


def test_every_name_is_asked_about() -> None:
    """RULES §3: "Prove that all N were checked"."""
    issuer = constrained(x509.NameConstraints([*dns("corp.internal"), *networks("10.0.0.0/8")], None))
    names = ("a.corp.internal", "bad1.test", "b.corp.internal", "bad2.test")
    reasons = permitted_by(issuer.certificate, names, ("10.0.0.1", "192.0.2.1", "::1"))
    assert [reason.split()[0] for reason in reasons] == ["bad1.test", "bad2.test", "192.0.2.1", "::1"]
    assert "corp.internal" in reasons[0]


def test_names_never_issued_meet_their_constraints() -> None:
    forms = [x509.RFC822Name("corp.internal"), x509.UniformResourceIdentifier("http://corp.internal")]
    assert is_permitted("a.example", permitted=list(forms))
    assert is_permitted("a.example", excluded=list(forms))


def test_directory_names_bind_a_subject() -> None:
    """§4.2.1.10: restrictions of the form directoryName "MUST be applied to the subject field in the certificate (when the
    certificate includes a non-empty subject field)".
    """
    name = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")]))
    assert is_permitted("a.example", permitted=[name])
    assert not is_permitted("a.example", permitted=[name], has_subject=True)
    assert not is_permitted("a.example", excluded=[name], has_subject=True)


@pytest.mark.parametrize(
    "constraint",
    [
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), der.null()),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    ],
)
def test_unknown_forms(constraint: x509.GeneralName) -> None:
    """§4.2.1.10: with a critical extension, a verifier "MUST either process the constraint or reject the certificate"."""
    assert not is_permitted("a.example", permitted=[constraint])
    assert not is_permitted("a.example", excluded=[constraint])
    assert is_permitted("a.example", permitted=[constraint], critical=False)


def subtree(base: bytes) -> bytes:
    return der.sequence(der.encode(0xA0, der.sequence(base)))


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("a network with a hole", subtree(der.encode(0x87, bytes([10, 0, 0, 0, 255, 0, 255, 0])))),
        ("an address instead of a network", subtree(der.encode(0x87, bytes([10, 0, 0, 1])))),
        ("host bits", subtree(der.encode(0x87, bytes([10, 0, 0, 1, 255, 0, 0, 0])))),
        ("x400Address", subtree(der.encode(0xA3))),
        ("a name that is not ASCII", subtree(der.encode(0x82, b"\xff"))),
        ("an asterisk", subtree(der.encode(0x82, b"*.corp.internal"))),
        ("nothing at all", der.sequence()),
        ("no DER", b"junk"),
    ],
)
@pytest.mark.parametrize("critical", [True, False])
def test_what_cannot_be_read_forbids(what: str, value: bytes, *, critical: bool) -> None:
    """Rule 2: a verifier may read what we cannot, so nothing is issued."""
    assert permitted_by(constrained(value, critical=critical).certificate, ("a.example",), ())


def test_a_duplicate_forbids() -> None:
    """§4.2: "A certificate MUST NOT include more than one instance of a particular extension": which one would hold?"""
    forgery = Forgery.of(intermediate().issuer.certificate_der)
    constraint = extension("2.5.29.30", subtree(der.encode(0x82, b"example")))
    forgery.extensions["2.5.29.30"] = constraint
    assert permitted_by(forgery.certificate(), ("a.example",), ()) == []
    forgery.extensions["2.5.29.30"] = constraint + constraint
    assert permitted_by(forgery.certificate(), ("a.example",), ())


labels = st.text("ab", min_size=1, max_size=2)
host_names = st.lists(labels, min_size=1, max_size=4).map(".".join)


@PROPERTY
@given(name=host_names, constraint=host_names, label=labels)
def test_a_wildcard_is_no_way_around(name: str, constraint: str, label: str) -> None:
    """Whatever name a wildcard stands for: if the wildcard is permitted, the name is; if the name is excluded, the wildcard is."""
    wildcard, inside = f"*.{name}", f"{label}.{name}"
    if is_permitted(wildcard, permitted=dns(constraint)):
        assert is_permitted(inside, permitted=dns(constraint))
    if not is_permitted(inside, excluded=dns(constraint)):
        assert not is_permitted(wildcard, excluded=dns(constraint))


@PROPERTY
@given(address=st.ip_addresses(v=4), network=st.ip_addresses(v=4), prefix=st.integers(0, 32))
def test_addresses_agree_with_arithmetic(
    address: ipaddress.IPv4Address, network: ipaddress.IPv4Address, prefix: int
) -> None:
    whole = ipaddress.ip_network((int(network) >> (32 - prefix) << (32 - prefix), prefix))
    inside = int(address) >> (32 - prefix) == int(network) >> (32 - prefix)
    assert is_permitted(str(address), permitted=networks(str(whole))) is inside


# --- Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("organization", "common_name"), [(None, None), (None, "a"), ("Exämple & Co", None), ("Example", "Issuing CA 1")]
)
def test_builds_the_name_that_the_library_builds(organization: str | None, common_name: str | None) -> None:
    """O before CN (CLIENTS 24), both UTF8String (§4.1.2.4)."""
    parts = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, common_name)]
    expected = x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text is not None])
    assert build_distinguished_name(organization=organization, common_name=common_name) == expected.public_bytes()
