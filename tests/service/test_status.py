"""OCSP answers and CRLs as services give them: what they say, when they are made, what is kept of them (RULES §5)."""

import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from cryptography import x509

from acmeca.service.status import Status
from acmeca.storage.certificates import Certificate
from tests.support import ocsp_requests
from tests.support.acme_client import AcmeClient, certificate_key
from tests.support.server import CountingKey, RunningCa, ca_site, running_ca, until
from tests.support.status_client import StatusClient, crl_number, entries, read_answer, response_status


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest.fixture
async def quiet() -> AsyncIterator[RunningCa]:
    """A CA where nothing is published by itself, for tests that count CRLs."""
    async with running_ca(duties=False) as ca:
        yield ca


@pytest.fixture
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


@pytest.fixture
async def party(ca: RunningCa) -> StatusClient:
    return ca.relying_party()


class BrokenError(RuntimeError):
    """What a token raises."""


class TestStatuses:
    async def test_good_then_revoked(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        """RULES §5: "A revocation shows in OCSP within a second": here in the very next answer."""
        issued = await client.issue("a.localhost")
        good = await party.said(issued.serial)
        assert (good.status, good.this_update) == ("GOOD", ca.clock())
        (await client.revoke(issued.der, reason=4)).ok()
        revoked = await party.said(issued.serial)
        assert (revoked.status, revoked.reason, revoked.revoked_at) == ("REVOKED", "superseded", ca.clock())

    @pytest.mark.parametrize("hash_name", ocsp_requests.KNOWN_HASHES)
    async def test_each_spelling_learns_of_it(self, client: AcmeClient, party: StatusClient, hash_name: str) -> None:
        """Answers are kept by CertID; a revocation drops every one of them."""
        issued = await client.issue("b.localhost")
        for name in ocsp_requests.KNOWN_HASHES:
            assert (await party.said(issued.serial, name)).status == "GOOD"
        (await client.revoke(issued.der)).ok()
        said = await party.said(issued.serial, hash_name)
        assert (said.status, said.reason) == ("REVOKED", None)

    async def test_raised_reason(self, client: AcmeClient, party: StatusClient) -> None:
        issued = await client.issue("c.localhost")
        (await client.revoke(issued.der, reason=4)).ok()
        assert (await party.said(issued.serial)).reason == "superseded"
        (await client.revoke(issued.der, reason=1, key=certificate_key(issued))).ok()
        assert (await party.said(issued.serial)).reason == "keyCompromise"

    async def test_a_serial_that_was_never_recorded(self, party: StatusClient) -> None:
        """RULES §5: "an unrecorded serial of a known issuer is a signed `unknown`"."""
        for serial in (1, 1 << 128, (1 << 159) - 1):
            assert await party.status(serial) == "UNKNOWN"

    async def test_recorded_and_not_signed(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        """RULES §5: "one recorded but not yet signed is `unknown` too (and can be revoked)"."""
        order = await client.ready_order("d.localhost")
        ca.site.issuer_key.broken = BrokenError("the token is away")
        assert (await client.finalize(order)).ok().json["status"] == "processing"
        serial = int(await ca.scalar("SELECT serial FROM certificates WHERE signature IS NULL"), 16)
        assert await party.status(serial) == "UNKNOWN"
        await ca.services.certificates.revoke_for_admin(f"{serial:x}".zfill(34), reason=1, user="test")
        assert await party.status(serial) == "REVOKED"
        ca.site.issuer_key.broken = None
        await ca.services.issuance.finish_unfinished()
        assert await party.status(serial) == "REVOKED"
        assert (await client.order(order.url)).status == "invalid"

    async def test_unknown_becomes_good_when_it_is_signed(
        self, ca: RunningCa, client: AcmeClient, party: StatusClient
    ) -> None:
        order = await client.ready_order("e.localhost")
        ca.site.issuer_key.broken = BrokenError("the token is away")
        (await client.finalize(order)).ok()
        serial = int(await ca.scalar("SELECT serial FROM certificates WHERE signature IS NULL"), 16)
        assert await party.status(serial) == "UNKNOWN"
        ca.site.issuer_key.broken = None
        await ca.services.issuance.finish_unfinished()
        leaf, *_ = await client.download(await client.order(order.url))
        assert leaf.serial_number == serial
        assert await party.status(serial) == "GOOD"

    async def test_another_issuers_cert_id(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        """RULES §5: both hashes are checked: "two peers look at the serial or the URL alone and vouch for another issuer's
        certificates"; "an unknown issuer is `unauthorized`, or `unknown` among others".
        """
        issued = await client.issue("f.localhost")
        right = ocsp_requests.cert_id(party.certificate, issued.serial)
        name_hash, key_hash = ocsp_requests.hash_name_and_key(ca.root.certificate, "sha1")
        wrong = [
            ocsp_requests.cert_id(ca.root.certificate, issued.serial),
            ocsp_requests.cert_id(party.certificate, issued.serial, name_hash=name_hash),
            ocsp_requests.cert_id(party.certificate, issued.serial, key_hash=key_hash),
        ]
        for cert_id in wrong:
            alone = ocsp_requests.request(ocsp_requests.single(cert_id))
            assert response_status(await party.post(alone)) == "UNAUTHORIZED"
            both = ocsp_requests.request(ocsp_requests.single(cert_id), ocsp_requests.single(right))
            said = read_answer(await party.post(both), ca.issuer)
            assert [one.status for one in said] == ["UNKNOWN", "GOOD"]

    async def test_another_issuers_url(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        issued = await client.issue("g.localhost")
        request = party.request(issued.serial)
        for issuer_id in (ca.root.id, "AAAAAAAAAAAAAAAAAAAAAA"):
            answer = await party.fetch(ca.urls.ocsp(issuer_id), method="POST", body=request)
            assert response_status(answer) == "UNAUTHORIZED"

    async def test_several(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        """RULES §5: "a request for several certificates gets an answer for each", in their order."""
        one, two = await client.issue("h.localhost"), await client.issue("i.localhost")
        (await client.revoke(two.der)).ok()
        serials = (two.serial, 7, one.serial, two.serial)
        request = ocsp_requests.request(
            *(ocsp_requests.single(ocsp_requests.cert_id(party.certificate, serial)) for serial in serials)
        )
        said = read_answer(await party.post(request), ca.issuer)
        assert [one.status for one in said] == ["REVOKED", "UNKNOWN", "GOOD", "REVOKED"]

    async def test_the_servers_own(self, ca: RunningCa, party: StatusClient) -> None:
        """The listener's certificate is recorded and answered for like every other."""
        assert await party.status((await ca.served_certificate()).serial_number) == "GOOD"

    async def test_an_expired_certificate(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        """Revoked stays revoked after the end of the certificate's life too."""
        issued = await client.issue("j.localhost")
        (await client.revoke(issued.der)).ok()
        ca.clock.advance(days=100)
        await ca.opened.jobs.prepare()
        assert await party.status(issued.serial) == "REVOKED"


class TestKept:
    async def test_one_signature_until_half_of_its_life(
        self, ca: RunningCa, client: AcmeClient, party: StatusClient
    ) -> None:
        issued = await client.issue("a.localhost")
        request = party.request(issued.serial)
        first = await party.post(request)
        ca.clock.advance(hours=5, minutes=59)
        assert (await party.post(request)).body == first.body
        assert (await party.get(request)).body == first.body
        ca.clock.advance(minutes=1)
        second = await party.post(request)
        assert second.body != first.body
        assert read_answer(second, ca.issuer)[0].this_update == ca.clock()

    async def test_not_when_the_clock_went_back(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        """An answer from the future is one that clients refuse."""
        issued = await client.issue("b.localhost")
        ca.clock.advance(minutes=2)
        request = party.request(issued.serial)
        first = await party.post(request)
        ca.clock.advance(minutes=-1)
        second = await party.post(request)
        assert second.body != first.body
        assert read_answer(second, ca.issuer)[0].this_update == ca.clock()

    async def test_a_nonce_is_signed_anew(self, ca: RunningCa, client: AcmeClient, party: StatusClient) -> None:
        issued = await client.issue("c.localhost")
        for value in (b"x", b"y" * 128):
            request = party.request(issued.serial, extensions=[ocsp_requests.nonce(value)])
            one, two = await party.post(request), await party.post(request)
            assert one.body != two.body
            assert value in one.body

    async def test_next_update_never_beyond_the_responder(
        self, ca: RunningCa, client: AcmeClient, party: StatusClient
    ) -> None:
        """RULES §5: "nextUpdate never beyond its notAfter"."""
        issued = await client.issue("d.localhost")
        ca.clock.advance(days=13, hours=20)
        said = await party.said(issued.serial)
        assert isinstance(said.next_update, datetime)
        assert said.next_update - ca.clock() < timedelta(hours=4)
        ca.clock.advance(hours=6)
        assert response_status(await party.post(party.request(issued.serial))) == "TRY_LATER"
        await ca.opened.jobs.prepare()
        assert await party.status(issued.serial) == "GOOD"

    async def test_a_read_that_a_revocation_overtook_is_not_kept(
        self, ca: RunningCa, client: AcmeClient, party: StatusClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rule 1 of service/status.py: what was read before a revocation is not served after it."""
        issued = await client.issue("e.localhost")
        certificates = ca.store.certificates
        read = certificates.status_of

        async def overtaken(issuer_id: str, serial: str) -> object:
            found = await read(issuer_id, serial)
            monkeypatch.undo()
            (await client.revoke(issued.der)).ok()
            return found

        monkeypatch.setattr(certificates, "status_of", overtaken)
        assert await party.status(issued.serial) == "GOOD"  # it was when it was read
        assert await party.status(issued.serial) == "REVOKED"

    async def test_many_spellings_of_one_cert_id(self, client: AcmeClient, party: StatusClient, ca: RunningCa) -> None:
        """A CertID has few honest spellings; an attacker's others push each other out and nothing else."""
        issued = await client.issue("f.localhost")
        for hash_name in ocsp_requests.KNOWN_HASHES:
            for parameters in (b"", ocsp_requests.der.null()):
                cert_id = ocsp_requests.cert_id(party.certificate, issued.serial, hash_name, parameters=parameters)
                assert (
                    response_status(await party.post(ocsp_requests.request(ocsp_requests.single(cert_id))))
                    == "SUCCESSFUL"
                )
        kept = ca.services.status._answers[ca.issuer.id, issued.serial]
        assert len(kept) <= 8

    async def test_bounded(
        self, ca: RunningCa, client: AcmeClient, party: StatusClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asking for ever new serials does not fill the memory."""
        monkeypatch.setattr("acmeca.service.status._KEPT_ANSWERS", 2)
        monkeypatch.setattr("acmeca.service.status._KEPT_REQUESTS", 10)
        issued = [await client.issue("a.localhost") for _ in range(4)]
        for serial in [one.serial for one in issued] + list(range(1, 40)):
            await party.status(serial)
        status: Status = ca.services.status
        assert len(status._answers) <= 2
        assert len(status._requests) <= 10
        assert [await party.status(one.serial) for one in issued] == ["GOOD"] * 4

    async def test_unknown_is_not_kept(self, ca: RunningCa, party: StatusClient) -> None:
        """ "unknown" may become good in a moment; and nobody fills our memory with serials that do not exist."""
        request = party.request(4711)
        assert (await party.post(request)).body != (await party.post(request)).body
        assert not ca.services.status._answers


class TestCrls:
    async def test_empty(self, quiet: RunningCa) -> None:
        """RFC 5280 §5.1.2.6: "the revoked certificates list MUST be absent" when there are none."""
        ca, party = quiet, quiet.relying_party()
        crl = await party.crl()
        assert len(crl) == 0
        assert crl.last_update_utc == ca.clock()
        assert crl.next_update_utc == ca.clock() + timedelta(hours=24)

    async def test_a_revocation_shows(self, client: AcmeClient, party: StatusClient) -> None:
        """RULES §5: "… and in the CRL within a minute": a new one is published by itself, at once."""
        issued = await client.issue("a.localhost")
        before = crl_number(await party.crl())
        (await client.revoke(issued.der, reason=1)).ok()

        async def listed() -> bool:
            return issued.serial in entries(await party.crl())

        await until(listed, what="the entry in the CRL")
        crl = await party.crl()
        assert crl_number(crl) > before
        assert entries(crl) == {issued.serial: "keyCompromise"}

    async def test_no_reason_zero(self, quiet: RunningCa) -> None:
        """RFC 5280 §5.3.1: unspecified "SHOULD be absent": no entry has reason 0."""
        ca, client, party = quiet, await quiet.client(), quiet.relying_party()
        wanted = {}
        names = {1: "keyCompromise", 3: "affiliationChanged", 4: "superseded", 5: "cessationOfOperation"}
        for reason in (None, 0, 1, 3, 4, 5, 9):
            issued = await client.issue("b.localhost")
            (await client.revoke(issued.der, reason=reason)).ok()
            wanted[issued.serial] = None if not reason else (names | {9: "privilegeWithdrawn"})[reason]
        await ca.services.status.publish_crl(ca.issuer.id)
        assert entries(await party.crl()) == wanted

    async def test_numbers_rise(self, quiet: RunningCa) -> None:
        """RULES §5: "max(last + 1, a clock-derived floor)"; it rises when the clock stands still, runs or is set back."""
        ca, party = quiet, quiet.relying_party()
        numbers = [crl_number(await party.crl())]
        for move in (timedelta(), timedelta(), timedelta(hours=1), timedelta(days=-3), timedelta(), timedelta(days=9)):
            ca.clock.moment += move
            await ca.services.status.publish_crl(ca.issuer.id)
            numbers.append(crl_number(await party.crl()))
        assert numbers == sorted(set(numbers))
        assert numbers[3] == int((ca.clock() - timedelta(days=6)).timestamp())
        assert numbers[-1] == int(ca.clock().timestamp())

    async def test_numbers_rise_across_restarts(self) -> None:
        numbers = []
        async with ca_site() as site:
            await site.init()
            site.clock.advance(days=3)  # a server with a clock before its issuer's birth does not start
            for step in range(4):
                async with site.running() as ca:
                    await ca.services.status.publish_crl(ca.issuer.id)
                    numbers.append(crl_number(await ca.relying_party().crl()))
                site.clock.advance(hours=(1, -30, 0, 0)[step])
        assert numbers == sorted(set(numbers))

    async def test_a_number_taken_and_not_used_is_not_taken_again(self, quiet: RunningCa) -> None:
        """A process that died between `begin` and `publish` leaves a gap and nothing else."""
        ca, party = quiet, quiet.relying_party()
        now = ca.clock()
        draft = await ca.store.crls.begin(ca.issuer.id, this_update=now, next_update=now + timedelta(hours=1))
        await ca.services.status.publish_crl(ca.issuer.id)
        assert crl_number(await party.crl()) == draft.number + 1

    async def test_an_entry_stays_until_one_crl_after_expiry(self, quiet: RunningCa) -> None:
        """RFC 5280 §3.3: "An entry MUST NOT be removed from the CRL until it appears on one regularly scheduled CRL issued
        beyond the revoked certificate's validity period."
        """
        ca, client, party = quiet, await quiet.client(), quiet.relying_party()
        issued = await client.issue("c.localhost")
        (await client.revoke(issued.der)).ok()
        publish = ca.services.status.publish_crl
        present = []
        not_after = issued.leaf.not_valid_after_utc
        for moment in (
            ca.clock(),
            not_after - timedelta(seconds=1),
            not_after,
            not_after + timedelta(seconds=1),
            not_after + timedelta(seconds=2),
            not_after + timedelta(days=1),
        ):
            ca.clock.moment = moment
            await publish(ca.issuer.id)
            present.append(issued.serial in entries(await party.crl()))
        assert present == [True, True, True, True, False, False]

    async def test_revoked_after_its_expiry(self, quiet: RunningCa) -> None:
        ca, client, party = quiet, await quiet.client(), quiet.relying_party()
        issued = await client.issue("d.localhost")
        ca.clock.advance(days=91)
        (await client.revoke(issued.der)).ok()
        await ca.services.status.publish_crl(ca.issuer.id)
        assert issued.serial in entries(await party.crl())
        ca.clock.advance(seconds=1)
        await ca.services.status.publish_crl(ca.issuer.id)
        assert issued.serial not in entries(await party.crl())

    async def test_a_clock_that_was_wrong_for_a_while(self, quiet: RunningCa) -> None:
        """An entry that was dropped by a clock years ahead comes back with the right time: the certificate lives."""
        ca, client, party = quiet, await quiet.client(), quiet.relying_party()
        issued = await client.issue("e.localhost")
        (await client.revoke(issued.der)).ok()
        publish = ca.services.status.publish_crl
        for _ in range(3):
            await publish(ca.issuer.id)
        ca.clock.advance(days=400)
        for _ in range(6):
            await publish(ca.issuer.id)
        assert issued.serial not in entries(await party.crl())
        ca.clock.advance(days=-400)
        for _ in range(3):
            await publish(ca.issuer.id)
            assert issued.serial in entries(await party.crl())
        assert await party.status(issued.serial) == "REVOKED"

    async def test_revocation_dates(self, quiet: RunningCa) -> None:
        """RULES §5: "A new entry's revocationDate does not precede the previous CRL's thisUpdate"."""
        ca, client, party = quiet, await quiet.client(), quiet.relying_party()
        issued = await client.issue("f.localhost")
        ca.clock.advance(minutes=10)
        await ca.services.status.publish_crl(ca.issuer.id)
        this_update = (await party.crl()).last_update_utc
        ca.clock.advance(minutes=-5)
        (await client.revoke(issued.der)).ok()
        await ca.services.status.publish_crl(ca.issuer.id)
        # The clock was set back: to many verifiers a revocation that is dated in the future is none.
        crl = await party.crl()
        entry = crl.get_revoked_certificate_by_serial_number(issued.serial)
        assert entry is not None
        assert entry.revocation_date_utc <= crl.last_update_utc
        assert (await party.said(issued.serial)).revoked_at == entry.revocation_date_utc
        # It is right again: the date is the one that was kept.
        ca.clock.advance(minutes=10)
        await ca.services.status.publish_crl(ca.issuer.id)
        entry = (await party.crl()).get_revoked_certificate_by_serial_number(issued.serial)
        assert entry is not None
        assert entry.revocation_date_utc >= this_update

    async def test_made_anew_by_the_clock(self, quiet: RunningCa) -> None:
        """DESIGN §6: a CRL lives 24 h and is rebuilt every 6 h."""
        ca, party = quiet, quiet.relying_party()
        first = crl_number(await party.crl())
        ca.clock.advance(hours=5, minutes=59)
        await ca.services.status.publish_due_crls()
        assert crl_number(await party.crl()) == first
        assert await ca.services.status.seconds_to_next_crl() == 60
        ca.clock.advance(minutes=1)
        assert await ca.services.status.seconds_to_next_crl() == 0
        await ca.services.status.publish_due_crls()
        assert crl_number(await party.crl()) > first

    async def test_the_first_one_is_due_at_once(self, quiet: RunningCa) -> None:
        """A worker that starts while another one makes it finds none, which is no failure."""
        await quiet.execute("DELETE FROM crls")
        quiet.services.status._crls.clear()
        assert await quiet.services.status.seconds_to_next_crl() == 0

    async def test_one_crl_for_revocations_in_quick_succession(
        self, ca: RunningCa, client: AcmeClient, party: StatusClient
    ) -> None:
        issued = [await client.issue(f"g{number}.localhost") for number in range(6)]
        before = await ca.scalar("SELECT MAX(number) AS n FROM crls WHERE issuer_id = $1", ca.issuer.id)
        for one in issued:
            (await client.revoke(one.der)).ok()

        async def listed() -> bool:
            return len(await party.crl()) == 6

        await until(listed, what="six entries")
        made = await ca.scalar(
            "SELECT COUNT(*) AS n FROM crls WHERE issuer_id = $1 AND number > $2", ca.issuer.id, before
        )
        assert made <= 3

    async def test_the_roots_crl(self, ca: RunningCa) -> None:
        """RULES §6: "The root signs a CRL too", and the intermediate says where it is."""
        party = ca.relying_party(ca.root)
        crl = await party.crl()
        assert crl.next_update_utc is not None
        assert crl.next_update_utc - crl.last_update_utc == timedelta(days=396)
        (point,) = ca.issuer.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert [name.value for name in point.full_name or ()] == [ca.root.crl_url]

    async def test_a_wrong_signature_is_not_published(self, quiet: RunningCa) -> None:
        """Rule 2 of pki/crl.py; the CRL before stays where it is."""
        ca, party = quiet, quiet.relying_party()
        first = crl_number(await party.crl())

        class OtherKey(CountingKey):
            def sign(self, data: object, signature_algorithm: object) -> bytes:
                return super().sign(b"something else", signature_algorithm)  # type: ignore[arg-type]  # as it was given

        right = ca.site.issuer_key
        signer = ca.services.issuers._signing[ca.issuer.id]
        object.__setattr__(signer, "key", OtherKey(right._key))
        with pytest.raises(Exception, match="signature"):
            await ca.services.status.publish_crl(ca.issuer.id)
        assert crl_number(await party.crl()) == first
        object.__setattr__(signer, "key", right)
        await ca.services.status.publish_crl(ca.issuer.id)
        assert crl_number(await party.crl()) > first


async def test_no_responder(caplog: pytest.LogCaptureFixture) -> None:
    """Without a responder's key nobody is told anything but to come later (RFC 6960 §2.3)."""
    caplog.set_level(logging.CRITICAL)
    async with running_ca() as ca:
        ca.services.status._responders.clear()
        party = ca.relying_party()
        answer = await party.post(party.request(5))
        assert response_status(answer) == "TRY_LATER"
        assert answer.headers["Cache-Control"] == "no-store"


def test_certificate_type_is_frozen() -> None:
    """Nobody changes what was read from the store."""
    assert Certificate.__dataclass_params__.frozen  # type: ignore[attr-defined]  # set by dataclass
