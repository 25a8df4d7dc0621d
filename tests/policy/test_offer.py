"""Who chooses a profile, and what is refused (draft-ietf-acme-profiles §4)."""

import pytest

from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.offer import Offer
from tests.support.profiles import make_profile

OFFER = Offer({name: make_profile(name=name) for name in ("server", "short", "client")}, "short")


def refusal(offer: Offer, requested: str | None, allowed: tuple[str, ...] | None = None) -> str:
    with pytest.raises(Problem) as caught:
        offer.choose(requested, allowed=allowed)
    assert caught.value.type is ProblemType.INVALID_PROFILE
    return caught.value.detail


def test_without_a_wish_the_default() -> None:
    assert OFFER.choose(None).name == "short"


def test_whichever_is_asked_for() -> None:
    for name in OFFER.profiles:
        assert OFFER.choose(name).name == name


def test_what_is_not_offered() -> None:
    assert refusal(OFFER, "web") == (
        "profile: 'web' is none that the account may use; use server or short or client, or leave it out"
    )


@pytest.mark.parametrize("name", ["Server", "server ", "SERVER", "", "\x00", "x" * 256, "é"])
def test_a_name_is_compared_as_it_is(name: str) -> None:
    """Rule 1; and nothing that a client sent stands unescaped in the detail."""
    told = refusal(OFFER, name)
    assert told.isprintable()
    assert told.isascii()
    assert len(told) < 200


class TestGrant:
    """A grant's list: the first is the default, and no other may be used."""

    def test_the_first_is_the_default(self) -> None:
        assert OFFER.choose(None, allowed=("client", "server")).name == "client"

    def test_what_is_in_it(self) -> None:
        assert OFFER.choose("server", allowed=("client", "server")).name == "server"

    def test_what_is_not_in_it(self) -> None:
        assert "use client or server," in refusal(OFFER, "short", ("client", "server"))

    def test_what_is_not_offered_any_more(self) -> None:
        assert OFFER.choose(None, allowed=("gone", "server")).name == "server"
        assert "use server," in refusal(OFFER, "gone", ("gone", "server"))

    def test_nothing_left(self) -> None:
        assert "may use gone, which" in refusal(OFFER, None, ("gone",))
        assert "may use gone, which" in refusal(OFFER, "server", ("gone",))
        assert "may use no profile, which" in refusal(OFFER, None, ())


def test_today() -> None:
    """§4: finalize of an order whose profile is not offered any more is `invalidProfile`, and says what to do."""
    assert OFFER.current("server") is OFFER.profiles["server"]
    with pytest.raises(
        Problem, match="the profile gone is not offered any more; make a new order with server or"
    ) as caught:
        OFFER.current("gone")
    assert caught.value.type is ProblemType.INVALID_PROFILE
