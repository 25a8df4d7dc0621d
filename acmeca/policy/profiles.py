"""Certificate profiles: what kind of certificate an account gets, and what the server makes for itself.

Rule 1: everything in a certificate but its names and its key comes from here (RULES §4); nothing comes from the CSR.
"""

from datetime import timedelta
from typing import Final

from acmeca.pki.template import OCSP_SIGNING, SERVER_AUTH, Template

SERVER: Final = "server"
LISTENER: Final = "listener"
RESPONDER: Final = "ocsp-responder"

DEFAULT_LIFETIME: Final = timedelta(days=90)
LISTENER_LIFETIME: Final = timedelta(days=30)
RESPONDER_LIFETIME: Final = timedelta(days=14)

# How far notBefore lies before the moment of issuance: clocks inside a company differ by minutes, not by more.
_BACKDATE: Final = timedelta(minutes=5)


def server_template(lifetime: timedelta) -> Template:
    """The profile `server`: TLS servers, named by subjectAltName alone."""
    return Template(name=SERVER, lifetime=lifetime, extended_key_usages=(SERVER_AUTH,), backdate=_BACKDATE)


def listener_template() -> Template:
    """The TLS listener of acmeca itself."""
    return Template(name=LISTENER, lifetime=LISTENER_LIFETIME, extended_key_usages=(SERVER_AUTH,), backdate=_BACKDATE)


def responder_template(common_name: str) -> Template:
    """A delegated OCSP signer (RFC 6960 §4.2.2.2); Java refuses one with an empty subject, so it is named."""
    return Template(
        name=RESPONDER,
        lifetime=RESPONDER_LIFETIME,
        extended_key_usages=(OCSP_SIGNING,),
        backdate=_BACKDATE,
        ocsp_responder=True,
        subject_common_name=common_name,
    )
