"""Python's `acme`, the library below certbot, driven step by step: what its types demand of every resource.

Rule 1: the library parses each answer into its own types and refuses what is missing; a test here is what it gives back.
Rule 2: what it lacks (a change of the account's key) is made of its own pieces: its JWS, its network.
"""

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import josepy
import pytest
from acme import challenges, client, errors, jws, messages
from acme.crypto_util import make_csr
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.interop.responders import ZONE, Zone, web_root
from tests.support.installations import Installation

pytestmark = pytest.mark.interop

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class User:
    """Somebody with a key, the library's client, and an account."""

    acme: client.ClientV2
    key: josepy.JWK
    tokens: Path
    zone: Zone
    account: messages.RegistrationResource | None = None

    def register(self, **more: object) -> messages.RegistrationResource:
        registration = messages.NewRegistration.from_data(email="ops@example.org", terms_of_service_agreed=True, **more)
        self.account = self.acme.new_account(registration)
        return self.account

    def answer(self, order: messages.OrderResource, kind: type[challenges.KeyAuthorizationChallenge]) -> None:
        """Put what the challenge asks for in its place, and say so, for each authorization."""
        for authorization in order.authorizations:
            (body,) = (body for body in authorization.body.challenges if isinstance(body.chall, kind))
            response, validation = body.response_and_validation(self.key)
            if kind is challenges.HTTP01:
                (self.tokens / body.chall.path.rpartition("/")[2]).write_text(validation)
            else:
                name = body.chall.validation_domain_name(authorization.body.identifier.value)
                with (self.zone.records / name).open("a") as records:
                    records.write(f"{validation}\n")
            self.acme.answer_challenge(body, response)

    def obtain(
        self,
        *names: str,
        kind: type[challenges.KeyAuthorizationChallenge] = challenges.HTTP01,
        profile: str | None = None,
    ) -> messages.OrderResource:
        """A certificate, with all its chains."""
        order = self.acme.new_order(csr(*names), profile)
        self.answer(order, kind)
        order = self.acme.poll_authorizations(order, soon())
        return self.acme.finalize_order(order, soon(), fetch_alternative_chains=True)


def soon() -> dt.datetime:
    """The library compares with local time without a zone."""
    return dt.datetime.now() + dt.timedelta(seconds=30)  # noqa: DTZ005


def csr(*identifiers: str, key: Key | None = None) -> bytes:
    """A request as PEM, by a new P-256 key where none is given."""
    names = [identifier for identifier in identifiers if not is_address(identifier)]
    addresses = [ip_address(identifier) for identifier in identifiers if is_address(identifier)]
    return make_csr(pem_of(key or ec.generate_private_key(ec.SECP256R1())), names, ipaddrs=addresses or None)


def is_address(identifier: str) -> bool:
    return re.fullmatch(r"[\d.]+|.*:.*", identifier) is not None


def pem_of(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def leaf(order: messages.OrderResource) -> x509.Certificate:
    return x509.load_pem_x509_certificates(order.fullchain_pem.encode())[0]


@pytest.fixture(scope="module")
def tokens(ca: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with web_root(tmp_path_factory.mktemp("www"), ca.http_port) as tokens:
        yield tokens


@pytest.fixture
def new_user(
    ca: Installation, tokens: Path, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., User]]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca.root_path))
    monkeypatch.setenv("NO_PROXY", "*")

    def make(key: Key | None = None, algorithm: josepy.JWASignature = josepy.ES256) -> User:
        jwk = josepy.JWK.load(pem_of(key or ec.generate_private_key(ec.SECP256R1())))
        network = client.ClientNetwork(jwk, alg=algorithm, user_agent="acmeca-tests")
        directory = client.ClientV2.get_directory(ca.directory_url, network)
        return User(client.ClientV2(directory, network), jwk, tokens, zone)

    return make


# --- accounts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), josepy.ES256),
        (ec.generate_private_key(ec.SECP384R1()), josepy.ES384),
        (rsa.generate_private_key(65537, 2048), josepy.RS256),
    ],
    ids=["ES256", "ES384", "RS256"],
)
def test_an_account_from_its_beginning_to_its_end(
    new_user: Callable[..., User], key: Key, algorithm: josepy.JWASignature
) -> None:
    """RFC 8555 §7.3: created, found again by its key (which the library calls a conflict), asked, changed, deactivated."""
    user = new_user(key, algorithm)
    account = user.register()
    assert account.body.status == "valid"
    again = new_user(key, algorithm)
    with pytest.raises(errors.ConflictError) as conflict:
        again.register()
    assert conflict.value.location == account.uri
    asked = user.acme.query_registration(account)
    assert (asked.uri, asked.body.contact) == (account.uri, ("mailto:ops@example.org",))
    changed = user.acme.update_registration(asked.update(body=asked.body.update(contact=("mailto:noc@example.org",))))
    assert changed.body.contact == ("mailto:noc@example.org",)
    assert user.acme.deactivate_registration(changed).body.status == "deactivated"
    with pytest.raises(messages.Error) as refused:
        user.acme.new_order(csr("late.localhost"))
    assert refused.value.code == "unauthorized"


def test_a_change_of_the_accounts_key(new_user: Callable[..., User]) -> None:
    """§7.3.5, from P-256 to RSA: the inner JWS by the new key, without a nonce and for the same URL; the old key is out at once."""
    user = new_user()
    account = user.register()
    new = josepy.JWK.load(pem_of(rsa.generate_private_key(65537, 2048)))
    url = user.acme.directory["keyChange"]
    change = {"account": account.uri, "oldKey": user.key.public_key().to_partial_json() | {"kty": "EC"}}
    inner = jws.JWS.sign(json.dumps(change).encode(), new, josepy.RS256, nonce=None, url=url)
    response = user.acme.net.post(url, inner)
    assert response.status_code == 200
    with pytest.raises(messages.Error) as refused:
        user.acme.new_order(csr("old.localhost"))
    assert refused.value.code == "badSignatureAlgorithm", "the account's key is an RSA key now"
    user.acme.net.key, user.acme.net.alg, user.key = new, josepy.RS256, new
    assert user.acme.query_registration(account).uri == account.uri
    assert user.obtain("rolled.localhost").fullchain_pem


# --- orders -------------------------------------------------------------------------------------------------------


def test_names_and_addresses_in_one_order(new_user: Callable[..., User]) -> None:
    """§7.4 with RFC 8738: http-01 at each, IPv6 too; the certificate has what was ordered."""
    user = new_user()
    user.register()
    found = leaf(user.obtain("library.localhost", "127.0.0.1", "::1"))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["library.localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_a_wildcard(new_user: Callable[..., User]) -> None:
    """§7.1.3: the authorization's identifier is the name without "*." and says `wildcard`."""
    user = new_user()
    user.register()
    order = user.acme.new_order(csr(f"*.library.{ZONE}"))
    (authorization,) = order.authorizations
    assert authorization.body.identifier.value == f"library.{ZONE}"
    assert authorization.body.wildcard is True
    assert not [body for body in authorization.body.challenges if isinstance(body.chall, challenges.HTTP01)]
    user.answer(order, challenges.DNS01)
    order = user.acme.poll_and_finalize(order, soon())
    assert f"*.library.{ZONE}" in str(leaf(order).extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def test_every_chain(new_user: Callable[..., User], ca: Installation) -> None:
    """§7.4.2: the chains behind `rel="alternate"`, each for the same leaf; one has the root in it."""
    user = new_user()
    user.register()
    order = user.obtain("chains.library.localhost")
    (with_root,) = order.alternative_fullchains_pem
    assert with_root.startswith(order.fullchain_pem)
    assert with_root.strip().endswith(ca.root_path.read_text().strip())


def test_an_authorization_that_is_given_up(new_user: Callable[..., User]) -> None:
    """§7.5.2: deactivated by its account; its order cannot be had any more."""
    user = new_user()
    user.register()
    order = user.acme.new_order(csr("given-up.localhost"))
    given_up = user.acme.deactivate_authorization(order.authorizations[0])
    assert given_up.body.status == messages.STATUS_DEACTIVATED
    with pytest.raises(errors.Error):
        user.acme.poll_and_finalize(order, soon())


def test_a_challenge_that_fails(new_user: Callable[..., User]) -> None:
    """§7.5.1: the library finds the failed challenge, and in it the problem that says what was asked and what came."""
    user = new_user()
    user.register()
    order = user.acme.new_order(csr("unanswered.localhost"))
    (body,) = (item for item in order.authorizations[0].body.challenges if isinstance(item.chall, challenges.HTTP01))
    user.acme.answer_challenge(body, body.response(user.key))
    with pytest.raises(errors.ValidationError) as failed:
        user.acme.poll_authorizations(order, soon())
    (authorization,) = failed.value.failed_authzrs
    (error,) = (item.error for item in authorization.body.challenges if item.error is not None)
    assert error.code == "incorrectResponse"
    assert "404" in error.detail


# --- revocation ---------------------------------------------------------------------------------------------------


def test_revocation_by_the_account(new_user: Callable[..., User], ca: Installation) -> None:
    """§7.6, and a second time it is `alreadyRevoked`, which the library knows as a conflict or a problem."""
    user = new_user()
    user.register()
    found = leaf(user.obtain("revoked.library.localhost"))
    user.acme.revoke(found, 5)
    shown = ca.operate("show", serial=f"{found.serial_number:034x}")
    assert (shown["status"], shown["reason"]) == ("revoked", "cessationOfOperation")
    with pytest.raises(messages.Error) as again:
        user.acme.revoke(found, 5)
    assert again.value.code == "alreadyRevoked"


def test_revocation_by_the_certificates_key(new_user: Callable[..., User], ca: Installation) -> None:
    """§7.6: signed by the certificate's key, `jwk` in the header, no account."""
    user, key = new_user(), ec.generate_private_key(ec.SECP256R1())
    user.register()
    order = user.acme.new_order(csr("leaked.library.localhost", key=key))
    user.answer(order, challenges.HTTP01)
    found = leaf(user.acme.poll_and_finalize(order, soon()))
    new_user(key).acme.revoke(found, 1)
    assert ca.operate("show", serial=f"{found.serial_number:034x}")["reason"] == "keyCompromise"


# --- renewal ------------------------------------------------------------------------------------------------------


def test_when_to_renew(new_user: Callable[..., User], ca: Installation) -> None:
    """RFC 9773 §4: the library makes the certificate's identifier itself, takes the window apart and chooses a moment in it."""
    user = new_user()
    user.register()
    order = user.obtain("ari.library.localhost")
    shown = ca.operate("show", serial=f"{leaf(order).serial_number:034x}")
    chosen, ask_again = user.acme.renewal_time(order.fullchain_pem.encode())
    assert chosen is not None
    assert dt.datetime.fromisoformat(shown["renew_from"]) <= chosen <= dt.datetime.fromisoformat(shown["renew_until"])
    hours = (ask_again - dt.datetime.now(ask_again.tzinfo)) / dt.timedelta(hours=1)
    assert 5 < hours <= 6.1
