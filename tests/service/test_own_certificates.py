"""The server's own certificates: reused while fresh, renewed in time, taken up without a restart, replaced when they are bad."""

import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from acmeca.keystore.pem import UnreadableError
from acmeca.service import jobs
from acmeca.service.own_certificates import OwnCertificates
from tests.support.server import RunningCa, Site, ca_site, until


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


def own(ca: RunningCa) -> OwnCertificates:
    return ca.opened.jobs._own_certificates


def responder_path(ca: RunningCa) -> Path:
    return ca.data_dir / "keys" / f"{ca.issuer.id}.ocsp.pem"


def responder(ca: RunningCa) -> x509.Certificate:
    return x509.load_pem_x509_certificate(responder_path(ca).read_bytes())


async def shown_responder(ca: RunningCa) -> x509.Certificate:
    """The responder's certificate in a fresh OCSP answer."""
    party = ca.relying_party()
    answer = await party.post(party.request(int(ca.clock().timestamp())))
    (certificate,) = x509.ocsp.load_der_ocsp_response(answer.body).certificates
    return certificate


async def test_a_listener(site: Site) -> None:
    async with site.running() as ca:
        shown = await ca.served_certificate()
        shown.verify_directly_issued_by(ca.issuer.certificate)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["localhost"]
        assert shown.not_valid_after_utc - shown.not_valid_before_utc == timedelta(days=30, seconds=-1)


async def test_an_address_as_the_listeners_host() -> None:
    async with ca_site() as site:
        site.reconfigure(server={"base_url": f"https://127.0.0.1:{site.config.server.acme_listen[1]}"})
        await site.init()
        async with site.running() as ca:
            names = (await ca.served_certificate()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            assert [str(item) for item in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
            async with ca.session(check_time=True).get(ca.directory_url) as answer:
                assert answer.status == 200


async def test_a_responder(site: Site) -> None:
    """RULES §5: "short-lived certificate from the same issuer with a non-empty subject (Java refuses without), EKU OCSPSigning,
    digitalSignature only, id-pkix-ocsp-nocheck, no CDP and no OCSP URL".
    """
    async with site.running() as ca:
        certificate = await shown_responder(ca)
        assert certificate == responder(ca)
        certificate.verify_directly_issued_by(ca.issuer.certificate)
        found = certificate.extensions
        assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
        assert found.get_extension_for_class(x509.OCSPNoCheck)
        assert certificate.subject.rfc4514_string().startswith("CN=OCSP responder ")
        kinds = {type(item.value) for item in found}
        assert x509.CRLDistributionPoints not in kinds
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=14, seconds=-1)


async def test_reused_after_a_restart(site: Site) -> None:
    """Rule 1 of service/own_certificates.py: "a start that finds a fresh one uses it"."""
    async with site.running() as ca:
        before = await ca.served_certificate(), responder_path(ca).read_bytes()
        count = await ca.scalar("SELECT COUNT(*) AS n FROM certificates")
    site.clock.advance(days=5)
    async with site.running() as ca:
        assert (await ca.served_certificate(), responder_path(ca).read_bytes()) == before
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates") == count


async def test_renewed_at_two_thirds_without_a_restart(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2: "renewed when two thirds of its life are over, with a new key"; a new handshake shows it, nothing restarts."""
    monkeypatch.setattr(jobs, "_RENEWAL_SECONDS", 0.02)
    async with site.running() as ca:
        client = await ca.client()
        first = await ca.served_certificate()
        ca.clock.moment = first.not_valid_before_utc + timedelta(days=20) - timedelta(seconds=2)
        await own(ca).refresh()
        assert await ca.served_certificate() == first
        ca.clock.advance(seconds=2)

        async def renewed() -> bool:
            return await ca.served_certificate() != first

        await until(renewed, what="the new certificate in a handshake")
        second = await ca.served_certificate()
        assert second.public_key() != first.public_key()
        assert second.serial_number != first.serial_number
        (await client.post(client.account_url)).ok()  # the connection from before lives on
        data = (ca.data_dir / "listener.pem").read_bytes()
        key = serialization.load_pem_private_key(data, None)
        assert key.public_key() == second.public_key()
        assert stat.S_IMODE((ca.data_dir / "listener.pem").stat().st_mode) == 0o600


async def test_the_responder_is_rotated(site: Site) -> None:
    """RULES §5: "rotated by itself"; answers of the old key are dropped, and the new one is embedded."""
    async with site.running(duties=False) as ca:
        first = await shown_responder(ca)
        client, party = await ca.client(), ca.relying_party()
        issued = await client.issue("a.localhost")
        assert await party.status(issued.serial) == "GOOD"
        ca.clock.advance(days=14 * 2 / 3)
        await own(ca).refresh()
        second = await shown_responder(ca)
        assert second.public_key() != first.public_key()
        assert await party.status(issued.serial) == "GOOD"
        assert not [key for key in ca.services.status._answers if key[0] != ca.issuer.id]


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "junk", "no certificate", "mode", "another key", "not recorded", "revoked"]
)
@pytest.mark.parametrize("which", ["listener", "responder"])
async def test_a_bad_file_is_replaced(site: Site, which: str, damage: str) -> None:
    """A damaged, foreign, readable or revoked credential is not used; a new one is made."""
    async with site.running() as ca:
        path = ca.data_dir / "listener.pem" if which == "listener" else responder_path(ca)
        before = x509.load_pem_x509_certificate(path.read_bytes())
        key, certificates = path.read_text().split("-----END PRIVATE KEY-----\n")
        other_path = responder_path(ca) if which == "listener" else ca.data_dir / "listener.pem"
        other_key = other_path.read_text().split("-----END PRIVATE KEY-----\n")[0]
        match damage:
            case "not recorded":
                profile = "listener" if which == "listener" else "ocsp-responder"
                await ca.execute("DELETE FROM certificate_names")
                await ca.execute("DELETE FROM certificates WHERE profile = $1", profile)
            case "revoked":
                await ca.services.certificates.revoke_for_admin(
                    f"{before.serial_number:034x}", reason=None, user="test"
                )
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "junk":
            path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + certificates.encode())
        case "no certificate":
            path.write_text(key + "-----END PRIVATE KEY-----\n")
        case "mode":
            path.chmod(0o644)
        case "another key":
            path.write_text(other_key + "-----END PRIVATE KEY-----\n" + certificates)
    async with site.running() as ca:
        after = x509.load_pem_x509_certificate(path.read_bytes())
        assert after.serial_number != before.serial_number
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        shown = await ca.served_certificate() if which == "listener" else await shown_responder(ca)
        assert shown == after


@pytest.mark.parametrize("which", ["listener", "responder"])
async def test_a_file_that_cannot_be_read_now_says_nothing(
    site: Site, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, a network share that is away: no reason to sign anything."""
    async with site.running(duties=False) as ca:
        count = await ca.scalar("SELECT COUNT(*) AS n FROM certificates")
        path = ca.data_dir / "listener.pem" if which == "listener" else responder_path(ca)
        opened = Path.open

        def no_file_left(self: Path, *args: object, **kwargs: object) -> object:
            if self == path:
                raise OSError(24, "Too many open files")
            return opened(self, *args, **kwargs)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", no_file_left)
        for _ in range(3):
            with pytest.raises(UnreadableError, match="Too many open files"):
                await own(ca).refresh()
        monkeypatch.undo()
        await own(ca).refresh()
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates") == count


async def test_a_disk_that_takes_nothing_signs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is kept before its certificate is asked for; the old certificate serves as long as it lives."""
    async with site.running(duties=False) as ca:
        first = await ca.served_certificate()
        count = await ca.scalar("SELECT COUNT(*) AS n FROM certificates")
        ca.clock.advance(days=9)  # the listener's 30 days are fresh, and so are the responder's 14
        ca.clock.moment = first.not_valid_before_utc + timedelta(days=12)  # the responder's are not

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("acmeca.service.own_certificates.write_credential", full)
        await own(ca).refresh()
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates") == count
        assert await ca.relying_party().status(first.serial_number) == "GOOD"
        ca.clock.advance(days=3)  # now it has ended
        with pytest.raises(OSError, match="No space"):
            await own(ca).refresh()
        monkeypatch.undo()
        await own(ca).refresh()
        assert await ca.relying_party().status(first.serial_number) == "GOOD"
        assert not list((ca.data_dir / "keys").glob("*.next.pem"))


async def test_another_host(site: Site) -> None:
    """A listener's certificate for a name that the server does not have any more is replaced."""
    async with site.running() as ca:
        first = await ca.served_certificate()
    site.reconfigure(server={"base_url": f"https://127.0.0.1:{site.config.server.acme_listen[1]}"})
    async with site.running() as ca:
        assert await ca.served_certificate() != first


async def test_safe_at_any_time(site: Site) -> None:
    """Rule 1 of service/jobs.py: a duty "does nothing when nothing is due"."""
    async with site.running(duties=False) as ca:
        count = await ca.scalar("SELECT COUNT(*) AS n FROM certificates")
        for _ in range(3):
            await own(ca).refresh()
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates") == count == 2
