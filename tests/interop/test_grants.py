"""External account binding with every client that has it: the account belongs to the grant, and may have what that allows."""

import pytest

from tests.interop.clients.client import Ability, Binding, shown
from tests.interop.clients.fleet import Kind, each, with_all
from tests.interop.conftest import NewClient
from tests.interop.responders import ZONE
from tests.support.installations import Installation

pytestmark = pytest.mark.interop

EVERY = each(with_all(Ability.EAB))


def granted(
    ca: Installation, owner: str, name: str, *, single_use: bool = False, preauthorized: bool = False
) -> Binding:
    """A grant for a name, and what its user is told: as `acmeca eab create` prints it."""
    result = ca.operate("eab_create", owner=owner, names=[name], single_use=single_use, preauthorized=preauthorized)
    return Binding(result["kid"], result["hmac_key"])


@EVERY
def test_an_account_of_a_grant(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """RFC 8555 §7.3.4: the client binds its new account, gets what the grant lists, and nothing else. A second user of a grant for
    one account is refused, as is one with another grant's key."""
    name = f"team.{kind}.localhost"
    binding = granted(ca, str(kind), name, single_use=True)
    client = new_client(kind, binding)
    issued = client.issue(name)
    (account,) = ca.operate("eab_show", kid=binding.kid)["account_list"]
    assert shown(ca, issued)["account"] == account["account"]
    said = client.refused(f"other.{kind}.localhost")
    assert f"other.{kind}.localhost" in said
    assert "rejectedIdentifier" in said
    assert "unauthorized" in new_client(kind, binding).refused(name)
    other = granted(ca, f"{kind}, too", name)
    assert "unauthorized" in new_client(kind, Binding(other.kid, binding.hmac_key)).refused(name)


@EVERY
def test_names_that_need_no_validation(kind: Kind, new_client: NewClient, ca: Installation) -> None:
    """A grant that is pre-authorized: the authorization is valid as it is made, and the client goes on to finalize. Nothing could
    have answered: the name has no address."""
    name = f"{kind}.nowhere.{ZONE}"
    issued = new_client(kind, granted(ca, str(kind), name, preauthorized=True)).issue(name)
    assert shown(ca, issued)["names"] == [name]
