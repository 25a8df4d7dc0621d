"""What the server makes for itself, whatever is configured."""

from datetime import timedelta

import pytest

from acmeca.pki.errors import PkiError
from acmeca.pki.template import OCSP_SIGNING, SERVER_AUTH
from acmeca.policy.own_templates import LISTENER, OWN, RESPONDER, listener_template, responder_template


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
    for template in (listener_template(), responder_template("x")):
        assert timedelta(0) < template.backdate <= timedelta(hours=1)


def test_their_names_are_their_own() -> None:
    assert {listener_template().name, responder_template("x").name} == OWN
