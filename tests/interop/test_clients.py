"""What every ACME client does in its life, with each client that this machine has: certbot, lego, uacme, dehydrated, Caddy.

Rule 1: the programs are unmodified, and so is the CA: one server, its directory URL, its root.
Rule 2: what came out is checked by openssl and by the CA's own word, not by what the client believes.
Rule 3: a client that lacks an ability has no test for it, instead of a skipped one.
Rule 4: a start of certbot or dehydrated takes a second and an order three; so a life is one test, and certbot's is `test_certbot.py`.
"""

import shutil
import sqlite3
from contextlib import closing

import pytest

from tests.interop.clients.caddy import Caddy, CurrentCaddy
from tests.interop.clients.certbot import Certbot, CurrentCertbot
from tests.interop.clients.client import Ability, Wishes, shown, verify
from tests.interop.clients.dehydrated import Dehydrated
from tests.interop.clients.fleet import Kind, each, kinds, with_all
from tests.interop.clients.lego import Lego
from tests.interop.clients.lego_library import LegoLibrary
from tests.interop.clients.uacme import Uacme
from tests.interop.conftest import NewClient
from tests.interop.responders import ZONE
from tests.support.installations import CHECKOUT, Installation

pytestmark = pytest.mark.interop

KINDS = kinds()


LIVES = each(kind for kind in KINDS if kind.client is not CurrentCertbot)


def those_with(ability: Ability) -> pytest.MarkDecorator:
    """The clients that have it."""
    return each(with_all(ability))


def host(kind: Kind, label: str) -> str:
    """A name that no other test orders."""
    return f"{label}.{kind}.localhost"


@LIVES
def test_a_life(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """Register, order, answer http-01, finalize, fetch; another name, another key, by the same account (§7.3: one key, one
    account); renew before it is time, which leaves the old one good; revoke; end."""
    client = new_client(kind)
    names = [host(kind, "first"), *([host(kind, "deep.under.first")] if client.one_for_all else [])]
    first = client.issue(*names)
    verify(ca, first, *names)
    assert len(first.pems) == 2, "the leaf and the intermediate"
    before = shown(ca, first)
    assert before["names"] == sorted(names)

    second = client.issue(host(kind, "second"), wishes=Wishes(key_type="rsa"))
    verify(ca, second, host(kind, "second"))
    assert "Public-Key: (2048 bit)" in second.text
    assert "Digital Signature, Key Encipherment" in second.text
    assert shown(ca, second)["account"] == before["account"]

    renewed = client.renew(*names)
    verify(ca, renewed, *names)
    after = shown(ca, renewed)
    assert after["serial"] != before["serial"]
    assert after["account"] == before["account"]
    assert after["replaces"] == (before["serial"] if Ability.REPLACES in client.abilities else None)
    assert ca.operate("show", serial=before["serial"])["status"] == "valid"

    if Ability.REVOKE in client.abilities:
        client.revoke(*names, reason=4)
        item = ca.operate("show", serial=after["serial"])
        assert (item["status"], item["reason"]) == ("revoked", "superseded" if client.reasons else "unspecified")
    if Ability.REVOKE_WITH_KEY in client.abilities:
        serial = second.serial
        new_client(kind).revoke_with_key(second, reason=1)
        item = ca.operate("show", serial=serial)
        assert (item["status"], item["reason"]) == ("revoked", "keyCompromise" if client.reasons else "unspecified")
    if Ability.CONTACT in client.abilities:
        client.change_contact("noc@example.org")
        assert "noc@example.org" in account_row(ca, before["account"])[1]
    if Ability.DEACTIVATE in client.abilities:
        client.deactivate()
        assert account_row(ca, before["account"])[0] == "deactivated"


def account_row(ca: Installation, account_id: str) -> tuple[str, str]:
    """The status and the contacts that the CA keeps of an account."""
    with closing(sqlite3.connect(ca.database_path)) as database:
        ((status, contact),) = database.execute("SELECT status, contact FROM accounts WHERE id = ?", [account_id])
    return status, contact


@LIVES
def test_a_name_that_policy_refuses(kind: Kind, new_client: NewClient) -> None:
    """What the CA says about a name reaches the person who runs the client: the name, and that policy is the reason."""
    said = new_client(kind).refused("www.example.com")
    assert "www.example.com" in said
    assert "rejectedIdentifier" in said
    assert "allowed_names" in said


@those_with(Ability.IP)
def test_an_address(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """RFC 8738: an identifier of type ip, validated by http-01 at the address itself."""
    issued = new_client(kind).issue("127.0.0.1")
    verify(ca, issued, "127.0.0.1")
    assert "IP Address:127.0.0.1" in issued.text
    assert shown(ca, issued)["names"] == ["127.0.0.1"]


@those_with(Ability.TLS_ALPN_01)
def test_tls_alpn_01(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """RFC 8737, answered by the client's own responder, or from the certificate that it wrote."""
    issued = new_client(kind).issue(host(kind, "tls"), wishes=Wishes(challenge="tls-alpn-01"))
    verify(ca, issued, host(kind, "tls"))


@each(kind for kind in with_all(Ability.TLS_ALPN_01, Ability.IP) if kind.client is not Caddy)
def test_an_address_by_tls_alpn_01(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """RFC 8738 §6: the server name is the address's name below in-addr.arpa."""
    verify(ca, new_client(kind).issue("127.0.0.1", wishes=Wishes(challenge="tls-alpn-01")), "127.0.0.1")


@each(kind for kind in KINDS if kind.client is Caddy)
def test_an_address_shown_as_a_name_by_tls_alpn_01(kind: Kind, new_client: NewClient) -> None:
    """Caddy 2.6 shows a dNSName for an address, against RFC 8738 §6: it is refused, and the message says why."""
    said = new_client(kind).refused("127.0.0.1", wishes=Wishes(challenge="tls-alpn-01"))
    assert "incorrectResponse" in said
    assert "and not the iPAddress 127.0.0.1 alone" in said


@those_with(Ability.DNS_01)
def test_a_wildcard_by_dns_01(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """§8.4 and §7.1.3: the wildcard and the name itself in one order, so that one TXT name has two values."""
    name = f"{kind}.{ZONE}"
    issued = new_client(kind).issue(f"*.{name}", name, wishes=Wishes(challenge="dns-01"))
    verify(ca, issued, f"*.{name}", name)
    assert shown(ca, issued)["names"] == sorted([f"*.{name}", name])


@those_with(Ability.ROLLOVER)
def test_a_change_of_the_accounts_key(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """§7.3.5: the account stays, the key is another one; what the old key had issued can be revoked by the new one."""
    client = new_client(kind)
    issued = client.issue(host(kind, "before"))
    client.roll_over()
    after = shown(ca, client.issue(host(kind, "after")))
    before = shown(ca, issued)
    assert after["account"] == before["account"]
    client.revoke(host(kind, "before"), reason=0)
    assert ca.operate("show", serial=before["serial"])["status"] == "revoked"


@each(kind for kind in KINDS if kind.client in {Lego, Dehydrated})
def test_an_address_as_a_name(kind: Kind, new_client: NewClient) -> None:
    """Older clients order an address as a `dns` identifier: it is refused, and the message says what it should have been."""
    assert "use type 'ip'" in new_client(kind).refused("127.0.0.1")


@each(kind for kind in KINDS if issubclass(kind.client, Caddy))
def test_caddy_replaces_what_was_revoked(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """Caddy staples OCSP; when it learns there that its certificate is revoked, it gets another at once."""
    client = new_client(kind)
    assert isinstance(client, Caddy)
    name = host(kind, "replaced")
    serial = client.issue(name).serial
    ca.operate("revoke", serial=serial, reason="keyCompromise")
    shutil.rmtree(client.directory / "data" / "ocsp", ignore_errors=True)  # the answer from before, if it had come yet
    with client.running(name) as caddy:
        caddy.wait_for_line(r"certificate (obtained|renewed) successfully")
    issued = client.issued(name)
    verify(ca, issued, name)
    assert issued.serial != serial


@each(kind for kind in KINDS if kind.client is LegoLibrary)
def test_when_to_renew(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """RFC 9773 §4.2: not yet, by the certificate's own window; at once, when an operator says so, and with the page that says why."""
    client = new_client(kind)
    assert isinstance(client, LegoLibrary)
    item = shown(ca, client.issue(host(kind, "asked")))
    asked = client.ask(host(kind, "asked"))
    assert asked == {"now": False, "from": item["renew_from"], "until": item["renew_until"], "explanation": ""}
    ca.operate("renewal_set", serials=[item["serial"]], at_once=True, why="https://wiki.example.org/ca/42")
    told = client.ask(host(kind, "asked"))
    assert (told["now"], told["explanation"]) == (True, "https://wiki.example.org/ca/42")


DOCUMENTED = {
    "dns-01, wildcards": Ability.DNS_01,
    "tls-alpn-01": Ability.TLS_ALPN_01,
    "IP addresses": Ability.IP,
    "external account": Ability.EAB,
    "profile": Ability.PROFILE,
    "choice among chains": Ability.PREFERRED_CHAIN,
    "says what an order replaces": Ability.REPLACES,
    "revokes, by the account's key": Ability.REVOKE,
    "revokes, by the certificate's key": Ability.REVOKE_WITH_KEY,
    "changes the account's key": Ability.ROLLOVER,
    "changes the contact": Ability.CONTACT,
    "deactivates the account": Ability.DEACTIVATE,
}


def test_what_is_written_about_clients() -> None:
    """docs/clients.md says of each client what it is tested for here, and nothing else."""
    columns = [CurrentCertbot, Certbot, LegoLibrary, Lego, Uacme, Dehydrated, CurrentCaddy, Caddy]
    lines = (CHECKOUT / "docs" / "clients.md").read_text().splitlines()
    rows = {cells[1].strip(): cells[2:-1] for line in lines if len(cells := line.split("|")) == len(columns) + 3}
    assert set(DOCUMENTED.values()) == set(Ability)
    for what, ability in DOCUMENTED.items():
        written = [client for client, cell in zip(columns, rows[what], strict=True) if cell.strip()]
        assert written == [client for client in columns if ability in client.abilities], what
