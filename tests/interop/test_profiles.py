"""Profiles with every client that can ask for one (draft-ietf-acme-profiles): what is in the certificate, and what is refused."""

import pytest

from tests.interop.clients.client import Ability, Wishes, shown
from tests.interop.clients.fleet import Kind, each, with_all
from tests.interop.conftest import NewClient
from tests.support.installations import Installation

pytestmark = pytest.mark.interop

EVERY = each(with_all(Ability.PROFILE))


@EVERY
def test_a_profile(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """§4 of the draft: the order names it; `short` lives for a day."""
    client = new_client(kind)
    item = shown(ca, client.issue(f"day.{kind}.localhost", wishes=Wishes(profile="short")))
    assert item["profile"] == "short"
    issued = client.issue(f"both.{kind}.localhost", wishes=Wishes(profile="kubernetes"))
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in issued.text


@EVERY
def test_a_profile_that_there_is_not(kind: Kind, new_client: NewClient) -> None:
    """`invalidProfile`, or the client finds by itself that the directory does not list it."""
    said = new_client(kind).refused(f"none.{kind}.localhost", wishes=Wishes(profile="gold"))
    assert "gold" in said
