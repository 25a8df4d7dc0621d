"""acmeca.pki.chains: every way from an issuer up to a root, over cross-signs, and never over what signed nothing."""

import dataclasses
from datetime import timedelta

import pytest
from cryptography import x509

from acmeca.pki.chains import MAX_CHAINS, find_chains
from acmeca.pki.hierarchy import build_intermediate, build_root
from acmeca.pki.issuer import Issuer
from tests.support.authorities import NOW, Authority, make_issuer, serial
from tests.support.csrs import shared_key

YEARS = timedelta(days=3650)


def root(name: str, *, key: int, id_: str | None = None) -> Authority:
    """A self-signed CA of this name, with the key of this number."""
    private = shared_key("P-256", key)
    der = build_root(
        key=private,
        subject_common_name=name,
        organization="Example",
        not_before=NOW - timedelta(days=1),
        lifetime=YEARS,
        serial=serial(key),
    )
    return Authority(make_issuer(der, id_ or name), private)


def below(parent: Authority, name: str, *, key: int, id_: str | None = None) -> Authority:
    """A CA of this name that another one has signed: the same name and key below several are cross-signs."""
    private = shared_key("P-256", key)
    der = build_intermediate(
        root=parent.issuer,
        root_key=parent.key,
        public_key=private.public_key(),
        subject_common_name=name,
        organization="Example",
        not_before=NOW - timedelta(days=1),
        lifetime=YEARS / 2,
        serial=serial(1000 + key),
        path_length=9 if parent.issuer.path_length is None else parent.issuer.path_length - 1,
    )
    return Authority(make_issuer(der, id_ or name), private)


def ids(issuer: Authority, *known: Authority) -> list[list[str]]:
    """The chains, by the ids of their certificates; and each is one that signatures make."""
    found = find_chains(issuer.issuer, [authority.issuer for authority in known])
    for chain in found:
        assert_signed(chain)
    return [[item.id for item in chain] for chain in found]


def assert_signed(chain: tuple[Issuer, ...]) -> None:
    for child, parent in zip(chain, (*chain[1:], chain[-1]), strict=True):
        child.certificate.verify_directly_issued_by(parent.certificate)


A, B = root("A", key=120), root("B", key=121)
I_OF_A = below(A, "I", key=122)


def test_one_way() -> None:
    assert ids(I_OF_A, A, I_OF_A) == [["I", "A"]]
    assert ids(I_OF_A, A, B, I_OF_A) == [["I", "A"]]


def test_a_root_that_signs_itself() -> None:
    assert ids(A, A, I_OF_A) == [["A"]]


def test_over_two_intermediates() -> None:
    leaf_issuer = below(I_OF_A, "J", key=123)
    assert ids(leaf_issuer, A, I_OF_A, leaf_issuer) == [["J", "I", "A"]]


def test_a_cross_signed_root() -> None:
    """§7.4.2: alternates "can be used to express paths to various trust anchors"."""
    cross = below(B, "A", key=120, id_="A by B")
    assert ids(I_OF_A, A, I_OF_A, B, cross) == [["I", "A"], ["I", "A by B", "B"]]


def test_a_cross_signed_intermediate() -> None:
    """Its own certificate first, also when another one is older."""
    cross = below(B, "I", key=122, id_="I by B")
    assert ids(I_OF_A, cross, A, B, I_OF_A) == [["I", "A"], ["I by B", "B"]]
    assert ids(cross, cross, A, B, I_OF_A) == [["I by B", "B"], ["I", "A"]]


def test_both() -> None:
    upper = below(A, "U", key=124)
    upper_of_b = below(B, "U", key=124, id_="U by B")
    lower = below(upper, "L", key=125)
    cross = below(B, "A", key=120, id_="A by B")
    assert ids(lower, A, upper, lower, B, upper_of_b, cross) == [
        ["L", "U", "A"],
        ["L", "U", "A by B", "B"],
        ["L", "U by B", "B"],
    ]


def test_roots_that_sign_each_other() -> None:
    """Rule 3: the circle ends."""
    a_by_b, b_by_a = below(B, "A", key=120, id_="A by B"), below(A, "B", key=121, id_="B by A")
    assert ids(I_OF_A, A, B, I_OF_A, a_by_b, b_by_a) == [["I", "A"], ["I", "A by B", "B"]]


def test_without_a_root() -> None:
    assert ids(I_OF_A, I_OF_A) == []
    assert ids(I_OF_A, I_OF_A, B) == []


def test_the_name_is_not_enough() -> None:
    """Rule 2: another CA that calls itself A has signed nothing here."""
    impostor = root("A", key=126, id_="another A")
    assert ids(I_OF_A, impostor, I_OF_A) == []
    assert ids(I_OF_A, impostor, A, I_OF_A) == [["I", "A"]]


def test_nor_is_the_key() -> None:
    """A CA that has taken another name with its key is another one: what it signs names it."""
    renamed = root("C", key=120)
    assert ids(I_OF_A, renamed, I_OF_A) == []


@pytest.mark.parametrize("count", [3, 40])
def test_no_more_than_a_few(count: int) -> None:
    roots = [root(f"R{number}", key=130 + number) for number in range(count)]
    crosses = [below(parent, "I", key=122, id_=f"I by {parent.issuer.id}") for parent in roots]
    assert len(ids(I_OF_A, A, I_OF_A, *roots, *crosses)) == min(count + 1, MAX_CHAINS)


def test_a_signature_that_cannot_be_checked() -> None:
    """An issuer's certificate that says a name and holds junk in its signature is no way up."""
    der = A.issuer.certificate_der
    broken = dataclasses.replace(A.issuer, id="broken", certificate_der=der[:-4] + bytes(4))
    assert isinstance(broken.certificate, x509.Certificate)
    assert find_chains(I_OF_A.issuer, [broken, I_OF_A.issuer]) == ()
