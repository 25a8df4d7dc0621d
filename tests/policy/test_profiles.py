"""Profiles: what kind of certificate comes out, whatever was asked for."""

from datetime import timedelta

import pytest

from acmeca.pki.errors import PkiError
from acmeca.pki.template import OCSP_SIGNING, SERVER_AUTH
from acmeca.policy.profiles import (
    DEFAULT_LIFETIME,
    LISTENER,
    RESPONDER,
    SERVER,
    listener_template,
    responder_template,
    server_template,
)


def test_server() -> None:
    """DESIGN §6: a leaf lives 90 days; it is for TLS servers and has no subject."""
    template = server_template(DEFAULT_LIFETIME)
    assert (template.name, template.lifetime) == (SERVER, timedelta(days=90))
    assert template.extended_key_usages == (SERVER_AUTH,)
    assert not template.ocsp_responder
    assert template.subject_common_name is None


@pytest.mark.parametrize("lifetime", [timedelta(minutes=10), timedelta(days=825)])
def test_the_lifetime_is_configured(lifetime: timedelta) -> None:
    assert server_template(lifetime).lifetime == lifetime


def test_listener() -> None:
    template = listener_template()
    assert (template.name, template.lifetime) == (LISTENER, timedelta(days=30))
    assert template.extended_key_usages == (SERVER_AUTH,)


def test_responder() -> None:
    """DESIGN §6: a responder lives 14 days. RULES §5: a non-empty subject, and OCSPSigning alone."""
    template = responder_template("OCSP responder 2026-11")
    assert (template.name, template.lifetime) == (RESPONDER, timedelta(days=14))
    assert template.extended_key_usages == (OCSP_SIGNING,)
    assert template.ocsp_responder
    assert template.subject_common_name == "OCSP responder 2026-11"
    with pytest.raises(PkiError):
        responder_template("")


def test_backdating() -> None:
    """RULES §4: "notBefore backdated at most an hour"."""
    for template in (server_template(DEFAULT_LIFETIME), listener_template(), responder_template("x")):
        assert timedelta(0) < template.backdate <= timedelta(hours=1)


def test_names_are_different() -> None:
    """The store tells the server's own certificates from the accounts' by the profile's name."""
    assert len({SERVER, LISTENER, RESPONDER}) == 3
