"""The services of one server, as the layers above see them."""

from dataclasses import dataclass

from acmeca.service.accounts import Accounts
from acmeca.service.ambient import Ambient
from acmeca.service.certificates import Certificates
from acmeca.service.challenges import Challenges
from acmeca.service.issuance import Issuance
from acmeca.service.issuers import Issuers
from acmeca.service.orders import Orders
from acmeca.service.profiles import Profiles
from acmeca.service.readiness import Readiness
from acmeca.service.renewals import Renewals
from acmeca.service.requests import Nonces, Requests
from acmeca.service.status import Status
from acmeca.urls import Urls


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One value that listeners are given; `app` makes it."""

    ambient: Ambient
    urls: Urls
    nonces: Nonces
    requests: Requests
    accounts: Accounts
    profiles: Profiles
    orders: Orders
    challenges: Challenges
    issuance: Issuance
    certificates: Certificates
    renewals: Renewals
    issuers: Issuers
    status: Status
    readiness: Readiness
