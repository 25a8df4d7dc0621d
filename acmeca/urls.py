"""Every URL and path that acmeca serves, spelt once.

Rule 1: no other module spells a path. Routes are registered from `Paths`, links are made by `Urls`.
Rule 2: URLs are built from the configured base and nothing else, never from `Host` or `X-Forwarded-*`: the `url` member
of an ACME request has to equal them byte for byte (RFC 8555 §6.4), and what stands in a certificate stays for its life.
"""

from dataclasses import dataclass
from typing import Final

ACME_PREFIX: Final = "/acme/"
"""What the path of every ACME resource begins with."""


class Paths:
    """Path templates, with aiohttp's `{name}` for a variable part. Ids are `[A-Za-z0-9_-]` (RFC 8555 §6.1 leaves them free)."""

    FRONT_PAGE: Final = "/"
    STYLESHEET: Final = "/style.css"
    PROBLEMS: Final = "/problems"

    DIRECTORY: Final = "/acme/directory"
    NEW_NONCE: Final = "/acme/new-nonce"
    NEW_ACCOUNT: Final = "/acme/new-account"
    NEW_ORDER: Final = "/acme/new-order"
    NEW_AUTHZ: Final = "/acme/new-authz"
    REVOKE_CERT: Final = "/acme/revoke-cert"
    KEY_CHANGE: Final = "/acme/key-change"
    RENEWAL_INFO: Final = "/acme/renewal-info/{unique_identifier}"  # RFC 9773 §4.1
    ACCOUNT: Final = "/acme/account/{account_id}"
    ACCOUNT_ORDERS: Final = "/acme/account/{account_id}/orders"
    ORDER: Final = "/acme/order/{order_id}"
    FINALIZE: Final = "/acme/order/{order_id}/finalize"
    AUTHORIZATION: Final = "/acme/authorization/{authorization_id}"
    CHALLENGE: Final = "/acme/challenge/{authorization_id}/{challenge_type}"
    CERTIFICATE: Final = "/acme/certificate/{certificate_id}"
    ALTERNATE: Final = "/acme/certificate/{certificate_id}/{chain_id}"

    OCSP: Final = "/ocsp/{issuer_id}"
    CRL: Final = "/crl/{issuer_id}.crl"
    ISSUER_DER: Final = "/issuer/{issuer_id}.der"
    ISSUER_PEM: Final = "/issuer/{issuer_id}.pem"
    BUNDLE: Final = "/bundle.pem"
    ROOTS: Final = "/roots.pem"
    HEALTH_LIVE: Final = "/health/live"
    HEALTH_READY: Final = "/health/ready"
    METRICS: Final = "/metrics"  # admin listener


@dataclass(frozen=True, slots=True)
class Urls:
    """The absolute URLs of one server.

    `base` is the ACME listener's origin (`https://ca.corp.internal:8443`), `status` the origin for OCSP, CRLs and issuer
    certificates (`http://pki.corp.internal`); neither ends in a slash.
    """

    base: str
    status: str

    def problem(self, type_: str) -> str:
        """What a problem type means, and what to do: a section of one page."""
        return f"{self.base}{Paths.PROBLEMS}#{type_}"

    @property
    def directory(self) -> str:
        return self.base + Paths.DIRECTORY

    @property
    def new_nonce(self) -> str:
        return self.base + Paths.NEW_NONCE

    @property
    def new_account(self) -> str:
        return self.base + Paths.NEW_ACCOUNT

    @property
    def new_order(self) -> str:
        return self.base + Paths.NEW_ORDER

    @property
    def new_authz(self) -> str:
        return self.base + Paths.NEW_AUTHZ

    @property
    def revoke_cert(self) -> str:
        return self.base + Paths.REVOKE_CERT

    @property
    def key_change(self) -> str:
        return self.base + Paths.KEY_CHANGE

    @property
    def renewal_info(self) -> str:
        """The URL in the directory. "url = renewalInfo || '/' ||" the certificate's identifier (RFC 9773 §4.1)."""
        return f"{self.base}/acme/renewal-info"

    def account(self, account_id: str) -> str:
        return f"{self.base}/acme/account/{account_id}"

    def account_orders(self, account_id: str, cursor: str | None = None) -> str:
        """The orders list of §7.1.2.1; `cursor` names the page."""
        url = f"{self.base}/acme/account/{account_id}/orders"
        return url if cursor is None else f"{url}?cursor={cursor}"

    def order(self, order_id: str) -> str:
        return f"{self.base}/acme/order/{order_id}"

    def finalize(self, order_id: str) -> str:
        return f"{self.base}/acme/order/{order_id}/finalize"

    def authorization(self, authorization_id: str) -> str:
        return f"{self.base}/acme/authorization/{authorization_id}"

    def challenge(self, authorization_id: str, challenge_type: str) -> str:
        return f"{self.base}/acme/challenge/{authorization_id}/{challenge_type}"

    def certificate(self, certificate_id: str, chain_id: str | None = None) -> str:
        """A certificate with its chain (§7.4.2); `chain_id` names another chain than the one by default."""
        url = f"{self.base}/acme/certificate/{certificate_id}"
        return url if chain_id is None else f"{url}/{chain_id}"

    def ocsp(self, issuer_id: str) -> str:
        return f"{self.status}/ocsp/{issuer_id}"

    def crl(self, issuer_id: str) -> str:
        return f"{self.status}/crl/{issuer_id}.crl"

    def issuer_der(self, issuer_id: str) -> str:
        return f"{self.status}/issuer/{issuer_id}.der"

    def issuer_pem(self, issuer_id: str) -> str:
        return f"{self.status}/issuer/{issuer_id}.pem"

    @property
    def bundle(self) -> str:
        return self.status + Paths.BUNDLE

    @property
    def roots(self) -> str:
        return self.status + Paths.ROOTS
