"""The hierarchy: how it is made, that it is made once, and which issuer does what."""

import dataclasses
import stat
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca.errors import Conflict, NotFound
from acmeca.keystore.pem import KeystoreError, load_key
from acmeca.pki.errors import IssuanceError
from acmeca.service.issuers import Issuers, fingerprint, to_pem
from acmeca.storage.issuers import IssuerState, StoredIssuer
from tests.support.server import CountingKey, ca_site, running_ca


async def test_a_hierarchy() -> None:
    """A root of twenty years, its CRL of thirteen months, an intermediate of five years that may sign leaves alone."""
    async with ca_site() as site:
        await site.init()
        async with site.opened() as ca:
            root, issuer = ca.root.certificate, ca.issuer.certificate
            issuer.verify_directly_issued_by(root)
            assert root.not_valid_after_utc - root.not_valid_before_utc == timedelta(days=20 * 365, seconds=-1)
            assert issuer.not_valid_after_utc - issuer.not_valid_before_utc == timedelta(days=5 * 365, seconds=-1)
            constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints)
            assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
            assert issuer.subject.rfc4514_string() == "CN=Example CA Intermediate,O=Example"
            kinds = [row["kind"] for row in await ca.rows("SELECT kind FROM audit WHERE actor = 'admin:test'")]
            assert kinds == ["issuer.created", "issuer.created"]


async def test_files() -> None:
    """RULES §6: keys in files of mode 0600; the root's apart from those the server opens."""
    async with ca_site() as site:
        await site.init()
        async with site.running() as ca:
            keys = [*ca.data_dir.glob("root/*"), *ca.data_dir.glob("keys/*"), ca.data_dir / "listener.pem"]
            assert len(keys) == 5  # root, issuer, responder, listener, audit
            assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
            folders = [ca.data_dir, ca.data_dir / "root", ca.data_dir / "keys"]
            assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
            assert stat.S_IMODE(ca.root_path.stat().st_mode) == 0o644
            assert x509.load_pem_x509_certificate(ca.root_path.read_bytes()) == ca.root.certificate
            (root_key,) = (ca.data_dir / "root").iterdir()
            assert load_key(root_key).public_key() == ca.root.certificate.public_key()


async def test_the_roots_key_is_never_opened() -> None:
    """Rule 1 of service/issuers.py: a server runs without the root's key on the machine."""
    async with ca_site() as site:
        await site.init()
        (root_key,) = (site.config.server.data_dir / "root").iterdir()
        root_key.unlink()
        async with site.running() as ca:
            await (await ca.client()).issue("a.localhost")


async def test_once() -> None:
    async with ca_site() as site:
        await site.init()
        data_dir = site.config.server.data_dir
        before = {path: path.read_bytes() for path in data_dir.rglob("*.pem")}
        with pytest.raises(Conflict, match="holds a CA already"):
            await site.init()
        assert {path: path.read_bytes() for path in data_dir.rglob("*.pem")} == before


async def test_the_wrong_key() -> None:
    """A key that is not its issuer's makes no signature that leaves the server (Rule 3 of pki/issuance.py)."""
    async with ca_site() as site:
        await site.init()
        (path,) = (site.config.server.data_dir / "keys").glob("*.key.pem")
        wrong = ec.generate_private_key(ec.SECP256R1())
        site.keys[path] = CountingKey(wrong)
        with pytest.raises(Exception, match="signature"):
            async with site.running():
                raise AssertionError("it serves")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
async def test_a_key_that_others_can_read(mode: int) -> None:
    """RULES §6: "refused if group or others can read them"."""
    async with ca_site() as site:
        await site.init()
        (path,) = (site.config.server.data_dir / "keys").glob("*.key.pem")
        path.chmod(mode)
        with pytest.raises(KeystoreError, match="chmod 600"):
            async with site.opened():
                raise AssertionError("it opened")


async def test_no_issuer() -> None:
    """A server without a CA says what to do."""
    async with ca_site() as site:
        with pytest.raises(NotFound, match="acmeca init"):
            async with site.running():
                raise AssertionError("it serves")


async def test_a_clock_before_the_issuers_birth() -> None:
    """A server whose clock cannot be right does not start, and says what the clock shows."""
    async with ca_site() as site:
        await site.init()
        site.clock.advance(days=-1)
        with pytest.raises(IssuanceError, match="now it is"):
            async with site.running():
                raise AssertionError("it serves")


async def test_states() -> None:
    """The youngest active issuer signs; active and draining ones answer; a retired one's key is not opened."""
    async with running_ca() as ca:
        stored = list(ca.services.issuers.all)
        root, first = stored[0], stored[1]
        opened: list[str] = []

        def open_key(reference: str) -> ec.EllipticCurvePrivateKey:
            opened.append(reference)
            return ec.generate_private_key(ec.SECP256R1())

        def copy(state: IssuerState, reference: str) -> StoredIssuer:
            issuer = dataclasses.replace(first.issuer, id=reference)
            return StoredIssuer(issuer, parent_id=root.issuer.id, state=state, key_reference=reference)

        issuers = Issuers(
            [
                root,
                copy(IssuerState.ACTIVE, "older"),
                copy(IssuerState.ACTIVE, "younger"),
                copy(IssuerState.DRAINING, "draining"),
                copy(IssuerState.RETIRED, "retired"),
            ],
            open_key=open_key,
        )
        assert opened == ["older", "younger", "draining"]
        assert issuers.active.id == "younger"
        assert [signer.id for signer in issuers.signing] == ["older", "younger", "draining"]
        assert issuers.signer("retired") is None
        assert issuers.signer(root.issuer.id) is None
        assert issuers.stored("retired") is not None
        assert issuers.bundle_pem().count(b"BEGIN") == 4
        assert issuers.bundle_pem().endswith(to_pem(root.issuer.certificate_der))
        assert issuers.roots_pem() == to_pem(root.issuer.certificate_der)
        assert issuers.chain("draining") == (first.issuer.certificate_der,)
        assert issuers.chain(root.issuer.id) == issuers.chain("unknown") == ()


async def test_fingerprint() -> None:
    async with ca_site() as site:
        await site.init()
        async with site.opened() as ca:
            text = fingerprint(ca.root.certificate_der)
            assert len(text.split(":")) == 32
            assert text == text.upper()
