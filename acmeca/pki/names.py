"""Names in certificates: the Names of issuers and subjects (RFC 5280 §4.1.2.4), and name constraints (§4.2.1.10).

Rule 1: where verifiers read a constraint differently, the reading that issues less is taken.
Rule 2: a constraint that cannot be read forbids everything, marked critical or not: a verifier that can read it would.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

from cryptography import x509

from acmeca.pki import der
from acmeca.pki.errors import PkiError
from acmeca.pki.extensions import read_extensions

_Network: TypeAlias = IPv4Network | IPv6Network
_Address: TypeAlias = IPv4Address | IPv6Address

_COMMON_NAME: Final = der.oid("2.5.4.3")
_ORGANIZATION: Final = der.oid("2.5.4.10")
_ORGANIZATIONAL_UNIT: Final = der.oid("2.5.4.11")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a subject says; None is left out, and without any part it is empty."""

    organization: str | None = None
    organizational_unit: str | None = None
    common_name: str | None = None

    @property
    def is_empty(self) -> bool:
        return self.organization is None and self.organizational_unit is None and self.common_name is None

    @property
    def der(self) -> bytes:
        """The Name."""
        return build_distinguished_name(
            organization=self.organization,
            organizational_unit=self.organizational_unit,
            common_name=self.common_name,
        )


def build_distinguished_name(
    *, organization: str | None = None, organizational_unit: str | None = None, common_name: str | None = None
) -> bytes:
    """The DER of a Name with these parts, O before OU before CN; an empty one without them.

    dehydrated cannot match a preferred chain when the CN comes first. §4.1.2.4: "CAs MUST use either PrintableString or
    UTF8String"; it is UTF8String.
    """
    parts = (
        (_ORGANIZATION, organization),
        (_ORGANIZATIONAL_UNIT, organizational_unit),
        (_COMMON_NAME, common_name),
    )
    return der.sequence(
        *(
            der.set_(der.sequence(oid, der.encode(der.UTF8_STRING, text.encode("utf-8"))))
            for oid, text in parts
            if text is not None
        )
    )


def permitted_by(
    issuer_certificate: x509.Certificate,
    dns_names: Iterable[str],
    ip_addresses: Iterable[str],
    *,
    has_subject: bool = False,
) -> list[str]:
    """Why these names lie outside the name constraints of a CA certificate; an empty list when they do not.

    `dns_names` are canonical (lower-case A-labels, `*.` only in front), `ip_addresses` are text. §4.2.1.10 holds for each
    CA of a path, so a caller with a chain asks for each. `has_subject` says that the certificate will have a non-empty
    subject, which directoryName constraints apply to.

    Constraints on names that are never issued here (rfc822Name, URI) are met by their absence. Forms that this function
    does not know are a reason when the extension is critical, as §4.2.1.10 has it for every verifier.
    """
    try:
        extension = read_extensions(issuer_certificate).get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        return []
    except PkiError as error:  # Rule 2
        return [f"the issuer's name constraints: {error}"]
    permitted = extension.value.permitted_subtrees or []
    excluded = extension.value.excluded_subtrees or []
    reasons = _unchecked_forms((*permitted, *excluded), critical=extension.critical, has_subject=has_subject)

    permitted_dns = _dns_constraints(permitted)
    excluded_dns = _dns_constraints(excluded)
    for name in dns_names:
        if any(_dns_excluded(name, constraint) for constraint in excluded_dns):
            reasons.append(f"{name} is excluded by the issuer's name constraints ({_list(excluded_dns)})")
        elif permitted_dns and not any(_dns_permitted(name, constraint) for constraint in permitted_dns):
            reasons.append(f"{name} is not among the names that the issuer may certify ({_list(permitted_dns)})")

    permitted_networks = _networks(permitted)
    excluded_networks = _networks(excluded)
    for text in ip_addresses:
        address = ipaddress.ip_address(text)
        if any(_within(address, network) for network in excluded_networks):
            reasons.append(f"{text} is excluded by the issuer's name constraints ({_list(excluded_networks)})")
        # One iPAddress form serves both families, so a permitted IPv4 network leaves no IPv6 address over.
        elif permitted_networks and not any(_within(address, network) for network in permitted_networks):
            reasons.append(
                f"{text} is not among the addresses that the issuer may certify ({_list(permitted_networks)})"
            )
    return reasons


def _unchecked_forms(constraints: Sequence[x509.GeneralName], *, critical: bool, has_subject: bool) -> list[str]:
    reasons = []
    for constraint in constraints:
        if isinstance(constraint, x509.DNSName | x509.IPAddress | x509.RFC822Name | x509.UniformResourceIdentifier):
            continue
        if isinstance(constraint, x509.DirectoryName):
            if has_subject:
                reasons.append("the issuer constrains directory names, and the certificate would have a subject")
        elif critical:
            reasons.append(
                f"the issuer has a critical name constraint of a form not known here: {type(constraint).__name__}"
            )
    return reasons


def _dns_constraints(constraints: Sequence[x509.GeneralName]) -> list[str]:
    return [constraint.value.lower() for constraint in constraints if isinstance(constraint, x509.DNSName)]


def _dns_permitted(name: str, constraint: str) -> bool:
    """§4.2.1.10: satisfied by "any DNS name that can be constructed by simply adding zero or more labels" in front.

    A wildcard is permitted when every name that it can stand for is: when what follows the asterisk is permitted. With a
    leading dot, which RFC 5280 defines for URIs only, the usual reading is that at least one label has to be added.
    """
    if constraint.startswith("."):
        return name.endswith(constraint)  # `*.x` ends with `.x`, and stands for names that do
    base = name.removeprefix("*.")
    return not constraint or base == constraint or base.endswith("." + constraint)


def _dns_excluded(name: str, constraint: str) -> bool:
    """A name in the subtree; and a wildcard that any name of the subtree could hide under, at whatever depth.

    A leading dot is taken for none, and so is a trailing dot, which excludes one name more.
    """
    constraint = constraint.removeprefix(".").removesuffix(".")
    base = name.removeprefix("*.")
    if not constraint or base == constraint or base.endswith("." + constraint):
        return True
    return name != base and constraint.endswith("." + base)


def _networks(constraints: Sequence[x509.GeneralName]) -> list[_Network]:
    return [
        constraint.value
        for constraint in constraints
        if isinstance(constraint, x509.IPAddress) and isinstance(constraint.value, IPv4Network | IPv6Network)
    ]


def _within(address: _Address, network: _Network) -> bool:
    return address.version == network.version and address in network


def _list(constraints: Sequence[object]) -> str:
    return ", ".join(str(constraint) or "all names" for constraint in constraints)
