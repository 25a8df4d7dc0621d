"""The profiles of orders: as they were when each order was made.

Rule 1: the document of a profile is kept before an order names it.
Rule 2: what was read or kept once is known from then on, so that an order costs no query and no parsing for its profile.
"""

from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.offer import Offer
from acmeca.policy.profiles import Profile
from acmeca.service.ambient import Ambient
from acmeca.storage.store import Store


class Profiles:
    """Those that are offered, and those that were."""

    def __init__(self, store: Store, *, offer: Offer, ambient: Ambient) -> None:
        self._store = store
        self._ambient = ambient
        self.offer = offer
        self._known = {profile.id: profile for profile in offer.profiles.values()}
        self._kept: set[str] = set()

    async def keep(self, profile: Profile) -> None:
        """Have its document kept, so that an order can name it."""
        if profile.id not in self._kept:
            await self._store.profiles.keep(profile, at=self._ambient.now())
            self._known[profile.id] = profile
            self._kept.add(profile.id)

    async def keep_offered(self) -> None:
        """The same for all that are offered, before the first order."""
        self._kept |= await self._store.profiles.ids()
        for profile in self.offer.profiles.values():
            await self.keep(profile)

    async def as_ordered(self, name: str, profile_id: str | None) -> Profile:
        """The profile that an order was made with. Without an id it is from before profiles were kept: today's of that name.

        Raises Problem: `invalidProfile` where there is none of that name either.
        """
        if profile_id is None:
            return self.offer.current(name)
        profile = self._known.get(profile_id)
        if profile is None:
            profile = await self._store.profiles.by_id(profile_id)
            if profile is None:
                raise Problem(ProblemType.SERVER_INTERNAL, "the profile of the order is not there; make a new order")
            self._known[profile_id] = profile
            self._kept.add(profile_id)
        return profile
