"""Terms of service: who has to agree, and when again (RFC 8555 §7.3, §7.3.3)."""

from datetime import UTC, datetime

import pytest

from acmeca.acme.objects import Account
from acmeca.acme.problem import Problem
from acmeca.acme.states import AccountStatus
from acmeca.policy.terms import TermsOfService

OLD, NEW = "https://pki.corp.internal/terms/1", "https://pki.corp.internal/terms/2"


def account(agreed_to: str | None) -> Account:
    return Account("id", "t", "{}", AccountStatus.VALID, (), datetime(2026, 11, 1, tzinfo=UTC), None, agreed_to)


def test_without_terms_nobody_is_asked() -> None:
    """Rule 1."""
    none = TermsOfService()
    assert none.refusal_of_new(agreed=False) is None
    assert none.refusal(account(OLD)) is None
    assert none.agreed_by(account(None), agreed=True) is None


def test_a_new_account_has_to_agree() -> None:
    terms = TermsOfService(NEW)
    assert terms.refusal_of_new(agreed=True) is None
    assert_asks(terms.refusal_of_new(agreed=False))


@pytest.mark.parametrize("agreed_to", [None, OLD, NEW])
@pytest.mark.parametrize("again", [True, False])
def test_who_has_to_agree_again(agreed_to: str | None, *, again: bool) -> None:
    """Rule 2."""
    refusal = TermsOfService(NEW, again).refusal(account(agreed_to))
    if again and agreed_to != NEW:
        assert_asks(refusal)
    else:
        assert refusal is None


@pytest.mark.parametrize(("agreed_to", "kept"), [(None, NEW), (OLD, NEW), (NEW, None)])
def test_what_is_new_about_an_agreement(agreed_to: str | None, kept: str | None) -> None:
    terms = TermsOfService(NEW)
    assert terms.agreed_by(account(agreed_to), agreed=True) == kept
    assert terms.agreed_by(account(agreed_to), agreed=False) is None


def assert_asks(problem: Problem | None) -> None:
    assert problem is not None
    assert (problem.type.value, problem.status, problem.instance) == ("userActionRequired", 403, NEW)
    assert problem.headers == {"Link": f'<{NEW}>;rel="terms-of-service"'}
    assert problem.to_json()["instance"] == NEW
