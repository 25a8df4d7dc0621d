"""acmeca.acme.objects: the resources of RFC 8555 §7.1 as clients see them."""

import json
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import (
    Account,
    Authorization,
    Challenge,
    ChallengeType,
    Order,
    dump_json,
    format_time,
)
from acmeca.acme.states import AccountStatus, AuthorizationStatus, ChallengeStatus, OrderStatus
from acmeca.urls import Urls

URLS = Urls(base="https://ca.example:8443", status="http://pki.example")
MOMENT = datetime(2026, 11, 23, 17, 5, 6, tzinfo=UTC)
NAME = Identifier(IdentifierType.DNS, "a.example")
CHALLENGE = Challenge(type=ChallengeType.HTTP_01, token="DGyRejmCefe7v4NfDGDKfA", status=ChallengeStatus.PENDING)
ACCOUNT = Account(
    id="acc1",
    thumbprint="t",
    jwk="{}",
    status=AccountStatus.VALID,
    contact=("mailto:a@example",),
    created_at=MOMENT,
)
AUTHORIZATION = Authorization(
    id="az1",
    account_id="acc1",
    identifier=NAME,
    wildcard=False,
    status=AuthorizationStatus.PENDING,
    expires_at=MOMENT,
    challenges=(CHALLENGE,),
)
ORDER = Order(
    id="o1",
    account_id="acc1",
    status=OrderStatus.PENDING,
    identifiers=(NAME, Identifier(IdentifierType.IP, "::1")),
    authorization_ids=("az1", "az2"),
    created_at=MOMENT,
    expires_at=MOMENT,
)


def test_an_account() -> None:
    """§7.1.2: `status` and `orders` are required; no key, no id, nothing that a client does not need."""
    assert ACCOUNT.to_json(URLS) == {
        "status": "valid",
        "contact": ["mailto:a@example"],
        "orders": "https://ca.example:8443/acme/account/acc1/orders",
    }


def test_a_pending_challenge_has_what_every_client_needs() -> None:
    """CLIENTS 1: `type`, `url`, `status` and `token`; `validated` and `error` only when there is one (§8)."""
    assert CHALLENGE.to_json("https://ca.example/c") == {
        "type": "http-01",
        "url": "https://ca.example/c",
        "status": "pending",
        "token": "DGyRejmCefe7v4NfDGDKfA",
    }


def test_a_challenge_that_was_validated_says_when() -> None:
    """§8: `validated`: "REQUIRED if the "status" field is "valid""."""
    document = replace(CHALLENGE, status=ChallengeStatus.VALID, validated_at=MOMENT).to_json("u")
    assert document["validated"] == "2026-11-23T17:05:06Z"
    assert "error" not in document


def test_a_challenge_that_failed_says_why() -> None:
    error = {"type": "urn:ietf:params:acme:error:dns", "detail": "x"}
    document = replace(CHALLENGE, status=ChallengeStatus.INVALID, error=error).to_json("u")
    assert document["error"] == error
    assert document["error"] is not error


def test_an_authorization() -> None:
    """§7.1.4."""
    assert AUTHORIZATION.to_json(URLS) == {
        "status": "pending",
        "expires": "2026-11-23T17:05:06Z",
        "identifier": {"type": "dns", "value": "a.example"},
        "challenges": [CHALLENGE.to_json("https://ca.example:8443/acme/challenge/az1/http-01")],
    }


def test_a_wildcards_authorization_says_so_and_others_do_not() -> None:
    """§7.1.4: `wildcard` "MUST be present and true for" wildcards; "For other authorizations, it MUST be absent"."""
    assert replace(AUTHORIZATION, wildcard=True).to_json(URLS)["wildcard"] is True
    assert "wildcard" not in AUTHORIZATION.to_json(URLS)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (AuthorizationStatus.PENDING, ["pending", "valid", "invalid", "processing"]),
        (AuthorizationStatus.VALID, ["valid"]),
        (AuthorizationStatus.INVALID, ["invalid"]),
        (AuthorizationStatus.DEACTIVATED, ["pending", "valid", "invalid", "processing"]),
    ],
)
def test_the_challenges_that_an_authorization_shows(status: AuthorizationStatus, shown: list[str]) -> None:
    """§7.1.4: "For valid authorizations, the challenge that was validated. For invalid … the challenge that … failed"."""
    states = (ChallengeStatus.PENDING, ChallengeStatus.VALID, ChallengeStatus.INVALID, ChallengeStatus.PROCESSING)
    authorization = replace(
        AUTHORIZATION, status=status, challenges=tuple(replace(CHALLENGE, status=state) for state in states)
    )
    assert [challenge.status.value for challenge in authorization.shown_challenges()] == shown
    document = authorization.to_json(URLS)
    assert isinstance(document["challenges"], list)
    assert [challenge["status"] for challenge in document["challenges"]] == shown


def test_a_challenge_is_found_by_its_type() -> None:
    assert AUTHORIZATION.challenge("http-01") == CHALLENGE
    assert AUTHORIZATION.challenge("dns-01") is None
    assert AUTHORIZATION.challenge("") is None


def test_an_order() -> None:
    """§7.1.3."""
    assert ORDER.to_json(URLS) == {
        "status": "pending",
        "expires": "2026-11-23T17:05:06Z",
        "identifiers": [{"type": "dns", "value": "a.example"}, {"type": "ip", "value": "::1"}],
        "authorizations": [
            "https://ca.example:8443/acme/authorization/az1",
            "https://ca.example:8443/acme/authorization/az2",
        ],
        "finalize": "https://ca.example:8443/acme/order/o1/finalize",
        "profile": "server",
    }


def test_an_order_shows_what_was_asked_for() -> None:
    """§7.1.3: "notBefore (optional, string): The requested value of the notBefore field"; draft-ietf-acme-profiles §4: "an Order
    object including the selected profile".
    """
    order = replace(ORDER, not_before=ORDER.created_at, profile="web")
    document = order.to_json(URLS)
    assert (document["notBefore"], document["profile"]) == (format_time(ORDER.created_at), "web")
    assert "notAfter" not in document
    document = replace(ORDER, not_after=ORDER.expires_at).to_json(URLS)
    assert document["notAfter"] == format_time(ORDER.expires_at)
    assert "notBefore" not in document


@pytest.mark.parametrize("status", OrderStatus)
def test_the_certificate_is_shown_with_a_valid_order_alone(status: OrderStatus) -> None:
    """§7.4: ""valid": The server has issued the certificate and provisioned its URL to the "certificate" field"."""
    document = replace(ORDER, status=status, certificate_id="c1").to_json(URLS)
    assert document.get("certificate") == (
        "https://ca.example:8443/acme/certificate/c1" if status is OrderStatus.VALID else None
    )
    assert "certificate" not in replace(ORDER, status=status).to_json(URLS)


def test_an_order_that_failed_says_why() -> None:
    error = {"type": "urn:ietf:params:acme:error:serverInternal", "detail": "x"}
    assert replace(ORDER, status=OrderStatus.INVALID, error=error).to_json(URLS)["error"] == error


def test_times_are_rfc_3339_in_utc_with_whole_seconds() -> None:
    assert format_time(MOMENT) == "2026-11-23T17:05:06Z"
    assert format_time(MOMENT.replace(microsecond=999_999)) == "2026-11-23T17:05:06Z"


def test_a_time_of_another_zone_is_still_the_same_moment() -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert format_time(elsewhere) == "2026-11-23T17:05:06Z"


def test_json_is_flat_text_that_grep_can_read() -> None:
    """CLIENTS 22: no needless white space, no `\\/`."""
    text = dump_json(AUTHORIZATION.to_json(URLS) | {"detail": "\u00e9"})
    assert b"\\/" not in text
    assert b": " not in text
    assert b", " not in text
    assert b"\n" not in text
    assert "\u00e9".encode() in text
    assert json.loads(text)["challenges"][0]["url"] == "https://ca.example:8443/acme/challenge/az1/http-01"


@pytest.mark.parametrize("value", [ACCOUNT, CHALLENGE, AUTHORIZATION, ORDER])
def test_what_is_kept_is_frozen(value: object) -> None:
    with pytest.raises((FrozenInstanceError, AttributeError)):
        value.status = "x"  # type: ignore[attr-defined]  # what a frozen value has to refuse
