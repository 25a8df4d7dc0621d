"""A root's CRL: drawn up by the CA, signed elsewhere, taken back only as it was drawn up (service/root_crls.py)."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from acmeca.cli.root_crl import parse_draft
from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.keystore.pem import load_key
from acmeca.pki.crl import build_tbs_crl, encode_entry, sign_crl
from acmeca.pki.signing import PrivateKey, assemble_signed, sign_with, split_signed
from acmeca.service.root_crls import LONGEST, SHORTEST
from acmeca.service.status import build_drafted_tbs
from acmeca.storage.crls import CrlDraft
from tests.service.test_administration import USER, call, issue
from tests.support.server import RunningCa, Site, ca_site

DAY = timedelta(days=1)


@contextlib.asynccontextmanager
async def opened_ca() -> AsyncIterator[RunningCa]:
    async with ca_site() as site:
        await site.init()
        async with site.opened() as ca:
            yield ca


def root_key(site: Site, root_id: str) -> PrivateKey:
    return load_key(site.config.server.data_dir / "root" / f"{root_id}.key.pem")


async def begin(ca: RunningCa, **arguments: object) -> CrlDraft:
    return parse_draft(await call(ca, "root_crl_begin", **({"issuer": ca.root.id} | arguments)))


def signed(ca: RunningCa, draft: CrlDraft) -> bytes:
    return sign_crl(build_drafted_tbs(draft, ca.root), ca.root, root_key(ca.site, ca.root.id))


async def publish(ca: RunningCa, draft: CrlDraft, crl_der: bytes | None = None) -> dict[str, Any]:
    der = signed(ca, draft) if crl_der is None else crl_der
    return await call(ca, "root_crl_publish", issuer=ca.root.id, number=draft.number, der=der.hex())


async def served(ca: RunningCa) -> bytes:
    return (await ca.services.status.crl(ca.root.id)).der


async def revoke_below_root(ca: RunningCa, name: str) -> int:
    """A revoked certificate whose issuer is the root: made by the intermediate, and moved. Returns its serial."""
    certificate = await issue(ca, name)
    await ca.services.certificates.revoke_for_admin(certificate.serial, reason=4, user=USER)
    await ca.execute("UPDATE certificates SET issuer_id = $1 WHERE serial = $2", ca.root.id, certificate.serial)
    return int(certificate.serial, 16)


# --- as it should be ----------------------------------------------------------------------------------------------


async def test_what_is_drawn_up_is_signed_and_served() -> None:
    """Number and thisUpdate of now, nextUpdate 13 months later; both steps stand in the audit under the administrator's name."""
    async with opened_ca() as ca:
        first = await served(ca)
        now = ca.clock.advance(days=300)
        draft = await begin(ca)
        assert (draft.this_update, draft.next_update, draft.revoked) == (now, now + timedelta(days=396), ())
        assert draft.number == int(now.timestamp())
        assert await served(ca) == first, "what was begun is not published"
        shown = await publish(ca, draft)
        crl = x509.load_der_x509_crl(await served(ca))
        events = [json.loads(event) for kind in ("crl.recorded", "crl.signed") for event in await ca.events(kind)]
        root_public_key = ca.root.public_key
        root_id = ca.root.id
    assert crl.is_signature_valid(root_public_key)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == draft.number
    assert (crl.last_update_utc, crl.next_update_utc) == (draft.this_update, draft.next_update)
    assert (shown["issuer"], shown["number"], shown["is_root"]) == (root_id, draft.number, True)
    assert [
        (event["kind"], event["actor"])
        for event in events
        if (event["issuer_id"], event["number"]) == (root_id, draft.number)
    ] == [("crl.recorded", f"admin:{USER}"), ("crl.signed", f"admin:{USER}")]


async def test_it_is_served_over_http_at_once() -> None:
    """A relying party that asked before gets the new one: nothing kept in memory stands in its way."""
    async with ca_site() as site:
        await site.init()
        async with site.running(duties=False) as ca:
            party = ca.relying_party(ca.root)
            before = await party.fetch(ca.root.crl_url)
            ca.clock.advance(days=1)
            draft = await begin(ca)
            crl_der = signed(ca, draft)
            await publish(ca, draft, crl_der)
            after = await party.fetch(ca.root.crl_url)
    assert (before.status, after.status) == (200, 200)
    assert before.body != after.body == crl_der


async def test_it_lists_what_the_root_revoked() -> None:
    """The entries come from the store, by the rules of every other CRL."""
    async with opened_ca() as ca:
        serial = await revoke_below_root(ca, "a.localhost")
        draft = await begin(ca)
        ((listed, at, reason),) = draft.revoked
        assert (int(listed, 16), at, reason) == (serial, ca.clock(), 4)
        shown = await publish(ca, draft)
        entry = x509.load_der_x509_crl(await served(ca)).get_revoked_certificate_by_serial_number(serial)
    assert (shown["entries"], shown["pending"]) == (1, 0)
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.superseded


async def test_a_restart_between_the_two_steps() -> None:
    """The draft is in the store: another process may take back what this one began."""
    async with ca_site() as site:
        await site.init()
        async with site.opened() as ca:
            draft = await begin(ca)
        site.clock.advance(hours=1)
        async with site.opened() as ca:
            await publish(ca, draft)
            assert (await ca.services.status.crl(ca.root.id)).number == draft.number


async def test_lifetimes() -> None:
    """At least a day, at most 13 months, and never beyond the root's own end."""
    async with opened_ca() as ca:
        for lifetime in (SHORTEST, LONGEST):
            draft = await begin(ca, lifetime=int(lifetime.total_seconds()))
            assert draft.next_update - draft.this_update == lifetime
        for seconds in (0, int(SHORTEST.total_seconds()) - 1, int(LONGEST.total_seconds()) + 1):
            with pytest.raises(AcmecaError, match="at least 1 day and at most 396 days"):
                await begin(ca, lifetime=seconds)
        ca.clock.moment = ca.root.not_after - 30 * DAY
        draft = await begin(ca)
        assert draft.next_update == ca.root.not_after
        await publish(ca, draft)


# --- what is refused ----------------------------------------------------------------------------------------------


def changed(ca: RunningCa, draft: CrlDraft, **changes: object) -> bytes:
    """A CRL signed by the root, of another content than the draft's."""
    parts: dict[str, Any] = {
        "number": draft.number,
        "this_update": draft.this_update,
        "next_update": draft.next_update,
        "entries": b"".join(encode_entry(int(serial, 16), at, reason) for serial, at, reason in draft.revoked),
    }
    tbs = build_tbs_crl(issuer=ca.root, **(parts | changes))
    return sign_crl(tbs, ca.root, root_key(ca.site, ca.root.id))


def by_the_intermediate(ca: RunningCa, draft: CrlDraft) -> bytes:
    """The right content under the wrong key."""
    tbs = build_drafted_tbs(draft, ca.root)
    return assemble_signed(tbs, ca.root.signature_algorithm_der, sign_with(ca.site.issuer_key, tbs))


def of_the_intermediate(ca: RunningCa, draft: CrlDraft) -> bytes:
    tbs = build_tbs_crl(
        issuer=ca.issuer, number=draft.number, this_update=draft.this_update, next_update=draft.next_update, entries=b""
    )
    return sign_crl(tbs, ca.issuer, ca.site.issuer_key)


def with_another_signature(ca: RunningCa, draft: CrlDraft) -> bytes:
    tbs, _ = split_signed(signed(ca, draft))
    _, signature = split_signed(changed(ca, draft, number=draft.number + 1))
    return assemble_signed(tbs, ca.root.signature_algorithm_der, signature)


Forgery = Callable[[RunningCa, CrlDraft], bytes]

FORGERIES: dict[str, tuple[Forgery, str]] = {
    "nothing": (lambda *_: b"", "e_crl_unreadable"),
    "something": (lambda *_: b"acmeca", "e_crl_unreadable"),
    "one more byte": (lambda ca, draft: signed(ca, draft) + b"\0", "e_crl_unreadable"),
    "the intermediate's key": (by_the_intermediate, "e_crl_signature"),
    "the intermediate's CRL": (of_the_intermediate, "e_crl_issuer"),
    "another CRL's signature": (with_another_signature, "e_crl_signature"),
    "another number": (lambda ca, draft: changed(ca, draft, number=draft.number + 1), "e_crl_number_differs"),
    "an earlier thisUpdate": (
        lambda ca, draft: changed(ca, draft, this_update=draft.this_update - DAY),
        "its content is another",
    ),
    "a later nextUpdate": (
        lambda ca, draft: changed(ca, draft, next_update=draft.next_update + DAY),
        "its content is another",
    ),
    "no entries": (lambda ca, draft: changed(ca, draft, entries=b""), "its content is another"),
    "another entry": (
        lambda ca, draft: changed(ca, draft, entries=encode_entry(17, draft.this_update, None)),
        "its content is another",
    ),
    "another reason": (
        lambda ca, draft: changed(
            ca, draft, entries=encode_entry(int(draft.revoked[0][0], 16), draft.revoked[0][1], None)
        ),
        "its content is another",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_what_is_not_the_draft_is_refused(forgery: str) -> None:
    """Rule 2, also where the root's own key signed it; the draft stays good for the right one."""
    make, told = FORGERIES[forgery]
    async with opened_ca() as ca:
        await revoke_below_root(ca, "a.localhost")
        draft = await begin(ca)
        before, counted = await served(ca), await ca.counts()
        with pytest.raises(AcmecaError, match=told):
            await publish(ca, draft, make(ca, draft))
        assert await served(ca) == before
        assert await ca.counts() == counted
        await publish(ca, draft)
        assert await served(ca) != before


async def test_every_byte_counts() -> None:
    """No octet of the CRL can be another."""
    async with opened_ca() as ca:
        draft = await begin(ca)
        crl_der, before = signed(ca, draft), await served(ca)
        for place in range(len(crl_der)):
            tampered = bytearray(crl_der)
            tampered[place] ^= 1
            with pytest.raises(AcmecaError, match="is not CRL"):
                await publish(ca, draft, bytes(tampered))
        assert await served(ca) == before
        await publish(ca, draft, crl_der)


async def test_two_renewals_at_once() -> None:
    """The higher number stays, whoever comes back first; nothing is published twice."""
    async with opened_ca() as ca:
        slow, quick = await begin(ca), await begin(ca)
        assert quick.number == slow.number + 1
        await publish(ca, quick)
        with pytest.raises(Conflict, match=r"nothing was published: CRL .* was overtaken; the newest one stays"):
            await publish(ca, slow)
        with pytest.raises(Conflict, match="nothing was published"):
            await publish(ca, quick)
        assert (await ca.services.status.crl(ca.root.id)).number == quick.number

        slow, quick = await begin(ca), await begin(ca)
        for draft in (slow, quick):
            await publish(ca, draft)
        assert (await ca.services.status.crl(ca.root.id)).number == quick.number
        assert len([event for event in await ca.events("crl.signed") if ca.root.id in event]) == 4  # with the first


async def test_a_draft_whose_content_changed_meanwhile() -> None:
    """A reason that is raised to keyCompromise is in the next draft; this one would not tell the truth any more."""
    async with opened_ca() as ca:
        serial = await revoke_below_root(ca, "a.localhost")
        draft = await begin(ca)
        await ca.execute("UPDATE certificates SET revocation_reason = 1, revocation_sequence = revocation_sequence + 1")
        with pytest.raises(Conflict, match="was changed since it was begun"):
            await publish(ca, draft)
        draft = await begin(ca)
        assert draft.revoked[0][2] == 1
        await publish(ca, draft)
        assert x509.load_der_x509_crl(await served(ca)).get_revoked_certificate_by_serial_number(serial) is not None


async def test_a_draft_that_lay_too_long() -> None:
    async with opened_ca() as ca:
        draft = await begin(ca, lifetime=int(DAY.total_seconds()))
        ca.clock.advance(days=1)
        with pytest.raises(Conflict, match="which is over; begin again"):
            await publish(ca, draft)


async def test_a_number_that_was_never_begun() -> None:
    async with opened_ca() as ca:
        draft = await begin(ca)
        for number in (0, draft.number - 1, draft.number + 1, 2**63 - 1):
            with pytest.raises(Conflict, match="was never begun, or was overtaken"):
                await call(ca, "root_crl_publish", issuer=ca.root.id, number=number, der=signed(ca, draft).hex())


async def test_issuers_that_are_no_roots() -> None:
    """The intermediate's CRLs are the server's: nobody hands one in, with its key or another."""
    async with opened_ca() as ca:
        (intermediate,) = (await call(ca, "crl", issuer=ca.issuer.id, publish=True, with_der=True))["crls"]
        for issuer, told in ((ca.issuer.id, "is no root"), ("nobody", "there is no issuer"), (None, "there is no")):
            with pytest.raises(NotFound, match=told):
                await call(ca, "root_crl_begin", issuer=issuer)
            with pytest.raises(NotFound, match=told):
                await call(
                    ca, "root_crl_publish", issuer=issuer, number=intermediate["number"], der=intermediate["der"]
                )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"der": "xyz"}, "der: the CRL is expected in hex"),
        ({"der": 7}, "der: a text"),
        ({"number": None}, "number: the draft's number"),
        ({"number": 2**63}, "number: the draft's number"),
        ({"number": "7"}, "number: a whole number"),
        ({"number": -1}, "number: a whole number"),
        ({"issuer": 7}, "issuer: a text"),
    ],
)
async def test_arguments_of_publish(changes: dict[str, object], told: str) -> None:
    async with opened_ca() as ca:
        draft = await begin(ca)
        arguments = {"issuer": ca.root.id, "number": draft.number, "der": signed(ca, draft).hex()}
        with pytest.raises(AcmecaError, match=told):
            await call(ca, "root_crl_publish", **(arguments | changes))


@pytest.mark.parametrize("lifetime", ["396d", -1, True, 2**80])
async def test_arguments_of_begin(lifetime: object) -> None:
    async with opened_ca() as ca:
        with pytest.raises(AcmecaError, match=r"^lifetime: "):
            await begin(ca, lifetime=lifetime)


# --- the clock ----------------------------------------------------------------------------------------------------


async def test_a_clock_that_was_set_back() -> None:
    """Rule 3: a CRL from a year ago would replace a good one, and be over at once."""
    async with opened_ca() as ca:
        ca.clock.advance(days=400)
        await publish(ca, await begin(ca))
        before, counted = await served(ca), await ca.counts()
        ca.clock.advance(days=-399)
        for says in (False, None, "yes", 1):
            with pytest.raises(Conflict, match=r"look at the clock\. If it is right now, .* add: --clock-is-right"):
                await begin(ca, clock_is_right=says)
        assert (await served(ca), await ca.counts()) == (before, counted)


async def test_a_clock_that_was_ahead() -> None:
    """The newest CRL is good from next year on: an administrator who knows the time replaces it, and its number is passed."""
    async with opened_ca() as ca:
        now = ca.clock()
        ca.clock.advance(days=400)
        wrong = await begin(ca)
        await publish(ca, wrong)
        ca.clock.moment = now + DAY
        draft = await begin(ca, clock_is_right=True)
        assert (draft.this_update, draft.number) == (now + DAY, wrong.number + 1)
        await publish(ca, draft)
        assert x509.load_der_x509_crl(await served(ca)).last_update_utc == now + DAY
        await begin(ca)  # the clock is believed again


@pytest.mark.parametrize("says", [False, True])
async def test_outside_the_roots_own_time_nothing_is_begun(says: bool) -> None:  # noqa: FBT001  (parametrize gives it)
    async with opened_ca() as ca:
        moments: list[datetime] = [ca.root.not_before - timedelta(seconds=1), ca.root.not_after]
        for moment in moments:
            ca.clock.moment = moment
            with pytest.raises(Conflict, match="look at the clock; nothing was begun"):
                await begin(ca, clock_is_right=says)


async def test_an_older_crl_never_takes_the_place_of_a_newer_one() -> None:
    """A read of the store that ends after a publication must not bring the old one back, for a year."""
    async with opened_ca() as ca:
        old = await ca.store.crls.latest(ca.root.id)
        assert old is not None
        draft = await begin(ca)
        await publish(ca, draft)
        ca.services.status.use_crl(old)
        assert (await ca.services.status.crl(ca.root.id)).number == draft.number


async def test_the_issuers_are_listed_with_their_certificates() -> None:
    async with opened_ca() as ca:
        root, intermediate = (await call(ca, "issuers"))["issuers"]
        assert (root["issuer"], root["is_root"], root["crl_url"]) == (ca.root.id, True, ca.root.crl_url)
        assert (intermediate["issuer"], intermediate["is_root"]) == (ca.issuer.id, False)
        for item, issuer in ((root, ca.root), (intermediate, ca.issuer)):
            assert x509.load_pem_x509_certificate(item["certificate"].encode()) == issuer.certificate
            assert item["state"] == "active"
