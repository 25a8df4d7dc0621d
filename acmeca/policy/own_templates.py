"""What the server makes for itself: the certificates of its TLS listener and of its OCSP responders.

Rule 1: their names are kept apart from those of profiles, so that nobody orders one.
"""

from datetime import timedelta
from typing import Final

from acmeca.pki.template import OCSP_SIGNING, SERVER_AUTH, Template

LISTENER: Final = "listener"
RESPONDER: Final = "ocsp-responder"
OWN: Final = frozenset({LISTENER, RESPONDER})

LISTENER_LIFETIME: Final = timedelta(days=30)
RESPONDER_LIFETIME: Final = timedelta(days=14)

# How far notBefore lies before the moment of issuance: clocks inside a company differ by minutes, not by more.
BACKDATE: Final = timedelta(minutes=5)


def listener_template() -> Template:
    """The TLS listener of acmeca itself."""
    return Template(name=LISTENER, lifetime=LISTENER_LIFETIME, extended_key_usages=(SERVER_AUTH,), backdate=BACKDATE)


def responder_template(common_name: str) -> Template:
    """A delegated OCSP signer (RFC 6960 §4.2.2.2); Java refuses one with an empty subject, so it is named."""
    return Template(
        name=RESPONDER,
        lifetime=RESPONDER_LIFETIME,
        extended_key_usages=(OCSP_SIGNING,),
        backdate=BACKDATE,
        ocsp_responder=True,
        subject_common_name=common_name,
    )
