"""Challenges: begin a validation, judge what was seen, roll authorization and order up (RFC 8555 §7.5, §8).

Rule 1: a validation is a durable job before it is work, so that a restart takes it up again, or another instance does when
the one that had it in hand is gone.
Rule 2: one validation per challenge at a time, a bounded number per account, none longer than 30 s; accounts take turns.
How many go to one target at once is the dialler's to bound: it alone knows the address (`validation/http01.py`).
Rule 3: how control is shown is the type's own matter (`validations.py`); what came of it is recorded here.
Rule 4: one challenge of an authorization at a time. While one is under way another one's answer begins nothing: the outcome
of the first decides the authorization (§7.1.6), so that nothing would come of a second.
Rule 5: the policy is asked when a validation begins and when it is judged, so that a type which is offered no longer shows nothing.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from acmeca import audit
from acmeca.acme.objects import Account, Authorization, ChallengeType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.lifetimes import Lifetimes
from acmeca.service.accounts import Accounts
from acmeca.service.ambient import Ambient
from acmeca.service.limits import Limits
from acmeca.service.observation import Observer
from acmeca.service.turns import Turns
from acmeca.service.validations import FurtherCheck, Outcome, Target, Validation
from acmeca.storage.errors import StaleError
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.store import Store
from acmeca.storage.writers import Others
from acmeca.urls import Urls

log = logging.getLogger(__name__)

_AT_ONCE: Final = 128
_PER_ACCOUNT: Final = 32
_UNFINISHED_PER_ACCOUNT: Final = (
    200  # begun and not judged; what is beyond is refused, and asked for again by the client
)
_RESUMED_AT_ONCE: Final = 1000
_SECONDS: Final = 30.0
_AWAITED_SECONDS: Final = 0.25  # how long the answer to a challenge waits, so that a quick outcome needs no poll


class Challenges:
    """The authorizations of this server and the validations under way.

    `further` is asked after each validation that succeeded, and may still refuse.
    """

    def __init__(
        self,
        store: Store,
        *,
        others: Others,
        accounts: Accounts,
        validations: Mapping[ChallengeType, Validation],
        policy: ChallengePolicy,
        lifetimes: Lifetimes,
        limits: Limits,
        urls: Urls,
        ambient: Ambient,
        observer: Observer,
        further: FurtherCheck | None = None,
    ) -> None:
        self._store = store
        self._others = others
        self._accounts = accounts
        self._validations = validations
        self._policy = policy
        self._lifetimes = lifetimes
        self._limits = limits
        self._further = further
        self._urls = urls
        self._ambient = ambient
        self._observer = observer
        self._running: dict[str, asyncio.Task[Authorization | None]] = {}
        self._unfinished: Counter[str] = Counter()  # by account
        self._turns = Turns(at_once=_AT_ONCE, per_owner=_PER_ACCOUNT)

    async def authorization(self, account: Account, authorization_id: str) -> Authorization:
        """One of the account's authorizations, with the status it has now (§7.1.6: "expired" comes by itself)."""
        authorization = await self._store.orders.authorization(account.id, authorization_id)
        if authorization is None:
            raise Problem(ProblemType.MALFORMED, "there is no such authorization", status=404)
        return self._as_of_now(authorization)

    def _as_of_now(self, authorization: Authorization) -> Authorization:
        open_ = authorization.status in {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}
        if open_ and authorization.expires_at <= self._ambient.now():
            return replace(authorization, status=AuthorizationStatus.EXPIRED)
        return authorization

    async def challenge(self, account: Account, authorization_id: str, challenge_type: str) -> Authorization:
        """The authorization that a challenge URL belongs to."""
        authorization = await self.authorization(account, authorization_id)
        if authorization.challenge(challenge_type) is None:
            raise Problem(ProblemType.MALFORMED, "there is no such challenge", status=404)
        return authorization

    async def respond(self, account: Account, authorization_id: str, challenge_type: str) -> Authorization:
        """§7.5.1: the client says that it is ready. Begins the validation unless one was begun; never restarts one."""
        authorization = await self.challenge(account, authorization_id, challenge_type)
        type_ = ChallengeType(challenge_type)
        if authorization.status is AuthorizationStatus.PENDING and all(
            challenge.status is ChallengeStatus.PENDING for challenge in authorization.challenges
        ):
            if not self._policy.allows(authorization, type_):
                raise _not_offered(type_)
            if self._unfinished[account.id] >= _UNFINISHED_PER_ACCOUNT:
                raise Problem(
                    ProblemType.RATE_LIMITED,
                    f"{_UNFINISHED_PER_ACCOUNT} validations of this account are under way; answer this challenge later",
                    headers={"Retry-After": "10"},
                )
            try:
                authorization = await self._store.orders.begin_validation(
                    authorization,
                    type_,
                    at=self._ambient.now(),
                    failure=self._limits.of_failure(account.id, authorization.identifier),
                )
            except LimitReachedError as error:
                raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None
            except StaleError:  # another request began it, or another challenge
                return await self.authorization(account, authorization_id)
            validation = self._start(authorization, type_)
            await asyncio.wait([validation], timeout=_AWAITED_SECONDS)
            judged = validation.result() if validation.done() and not validation.cancelled() else None
            return await self.authorization(account, authorization_id) if judged is None else self._as_of_now(judged)
        return authorization

    async def deactivate(self, authorization: Authorization) -> Authorization:
        """§7.5.2: the account gives the authorization up."""
        if authorization.status not in {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}:
            raise Problem(
                ProblemType.MALFORMED, f"the authorization is {authorization.status.value} and cannot be deactivated"
            )
        try:
            return await self._store.orders.deactivate_authorization(authorization, at=self._ambient.now())
        except StaleError:
            raise Problem(
                ProblemType.MALFORMED, "the authorization changed meanwhile; read it again", status=409
            ) from None

    async def resume(self) -> int:
        """Take up the validations that a stopped process left; returns how many were started."""
        started = 0
        jobs = await self._store.orders.validation_jobs(limit=_RESUMED_AT_ONCE)
        living = await self._others.living() if jobs else frozenset()
        for job in jobs:
            if job.authorization.id in self._running or job.instance in living:
                continue
            if job.challenge.status is not ChallengeStatus.PROCESSING or (
                job.authorization.status is not AuthorizationStatus.PENDING
            ):
                await self._store.orders.drop_validation_job(job.authorization.id)
                continue
            if job.instance != self._store.writer.instance and not await self._store.orders.adopt_validation(job):
                continue
            self._start(job.authorization, job.challenge.type)
            started += 1
        return started

    async def stop(self) -> None:
        """Let what is under way end by itself for a moment, then leave it to the next start."""
        running = list(self._running.values())
        if running:
            await asyncio.wait(running, timeout=_AWAITED_SECONDS)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _start(self, authorization: Authorization, type_: ChallengeType) -> asyncio.Task[Authorization | None]:
        running = self._running.get(authorization.id)
        if running is not None:  # `resume` saw the job before `respond` came here
            return running
        task = asyncio.create_task(self._validate(authorization, type_), name=f"validation {authorization.id}")
        self._running[authorization.id] = task
        self._unfinished[authorization.account_id] += 1
        task.add_done_callback(lambda _: self._forget(authorization))
        return task

    def _forget(self, authorization: Authorization) -> None:
        del self._running[authorization.id]
        self._unfinished[authorization.account_id] -= 1
        if not self._unfinished[authorization.account_id]:
            del self._unfinished[authorization.account_id]

    async def _validate(self, authorization: Authorization, type_: ChallengeType) -> Authorization | None:
        """Validate and record; what became of it. A failure of ours leaves the job for `resume`; the peer's is an outcome."""
        challenge = authorization.challenge(type_)
        known = await self._accounts.known(authorization.account_id)
        if challenge is None or known is None:
            return None
        started, outcome = self._ambient.uptime(), "unfinished"
        judged: Authorization | None = None
        try:
            target = Target(
                type=type_,
                identifier=authorization.identifier,
                wildcard=authorization.wildcard,
                token=challenge.token,
                thumbprint=known.key.thumbprint,
                account_url=self._urls.account(authorization.account_id),
            )
            async with self._turns.turn(authorization.account_id):
                started = self._ambient.uptime()  # the wait for the turn is not the peer's
                async with asyncio.timeout(_SECONDS):
                    found = await self._find(authorization, target)
            problem = found.problem
            now = self._ambient.now()
            judged = await self._store.orders.record_outcome(
                authorization,
                type_,
                problem=problem,
                evidence=found.evidence,
                at=now,
                expires_at=self._lifetimes.expiry_when_valid(authorization, at=now),
                failure=self._limits.of_failure(authorization.account_id, authorization.identifier),
            )
            outcome = "valid" if problem is None else problem.type.value
        except StaleError:
            outcome = "overtaken"
            log.info("authorization %s was given up while it was validated", authorization.id)
        except Exception:  # no doing of the peer's, so it decides nothing: the job stays
            log.exception("validation of %s cannot be finished now; it is tried again", authorization.identifier)
        self._observer.validated(type_, outcome, self._ambient.uptime() - started)
        return judged

    async def _find(self, authorization: Authorization, target: Target) -> Outcome:
        """What comes of a validation: 1. its type is still allowed, 2. control is shown, 3. nothing further stands against it."""
        # Step 1: also for a validation that was begun under another configuration
        if not self._policy.allows(authorization, target.type):
            return Outcome.refused(_not_offered(target.type))
        # Step 2
        outcome = await self._validations[target.type].validate(target)
        # Step 3
        if outcome.problem is None and self._further is not None:
            problem = await self._further.refusal(target)
            if problem is not None:
                return Outcome.refused(problem)
        return outcome


def _not_offered(type_: ChallengeType) -> Problem:
    return Problem(
        ProblemType.UNAUTHORIZED,
        f"{type_.value} is offered no longer (validation.challenges): answer another challenge, or make a new order",
        status=403,
    )
