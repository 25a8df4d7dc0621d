"""What a CSR has to be for its order (RFC 8555 §7.4).

Rule 1: from a CSR come the public key and nothing else (RULES §4); its names are compared and dropped, its other extensions are
not looked at.
"""

from collections.abc import Sequence

from acmeca.acme.identifiers import Identifier, canonical_dns_name
from acmeca.acme.problem import Problem, ProblemType
from acmeca.pki.csr import CertificateRequest, parse_csr
from acmeca.pki.errors import CsrError
from acmeca.policy.keys import check_key


def accept_csr(csr_der: bytes, identifiers: Sequence[Identifier], *, weak_keys: frozenset[bytes]) -> CertificateRequest:
    """The request that can be certified for these identifiers. Raises Problem `badCSR`.

    1. It is a CSR, signed by its key. 2. Its key may be certified. 3. It asks for exactly the identifiers.
    """
    # Step 1
    try:
        request = parse_csr(csr_der)
    except CsrError as error:
        raise Problem(ProblemType.BAD_CSR, str(error)) from None
    # Step 2
    reason = check_key(request.public_key, request.spki_der, weak_keys=weak_keys)
    if reason is not None:
        raise Problem(ProblemType.BAD_CSR, f"the key in the CSR cannot be certified: {reason}")
    # Step 3
    _require_same_names(request, identifiers)
    return request


def _require_same_names(request: CertificateRequest, identifiers: Sequence[Identifier]) -> None:
    """§7.4: "The CSR MUST indicate the exact same set of requested identifiers as the initial newOrder request."

    A common name counts when it is the text of an identifier: "either in the commonName portion of the requested subject
    name or in an extensionRequest attribute … requesting a subjectAltName extension, or both".
    """
    ordered = {identifier.value for identifier in identifiers}
    count = len({name.lower() for name in request.dns_names}) + len(request.ip_addresses)
    if count > len(ordered):  # before work is spent on each of them
        raise Problem(ProblemType.BAD_CSR, f"the CSR has {count} names, the order has {len(ordered)}")
    asked = set(request.ip_addresses)
    for name in request.dns_names:
        try:
            asked.add(canonical_dns_name(name))
        except ValueError as error:
            raise Problem(ProblemType.BAD_CSR, f"a name in the CSR is not usable: {error}") from None
    asked.update(_common_name(name, ordered) for name in request.common_names)
    if asked != ordered:
        missing, extra = sorted(ordered - asked), sorted(asked - ordered)
        parts = [f"it lacks {', '.join(missing)}"] if missing else []
        parts += [f"it adds {', '.join(extra)}"] if extra else []
        raise Problem(
            ProblemType.BAD_CSR, f"the names in the CSR have to be exactly those of the order: {'; '.join(parts)}"
        )


def _common_name(text: str, ordered: set[str]) -> str:
    if text.lower() not in ordered:
        raise Problem(
            ProblemType.BAD_CSR,
            "the common name in the CSR is none of the order's identifiers; leave it out or repeat one of them",
        )
    return text.lower()
