"""Terms of service: who has to agree to what, and when again (RFC 8555 §7.3, §7.3.3).

Rule 1: without terms in the configuration nobody is asked, and what a client says of terms is ignored.
Rule 2: who agreed once goes on when the terms change, unless the operator wants everybody to agree again: few clients can.
"""

from dataclasses import dataclass

from acmeca.acme.objects import Account
from acmeca.acme.problem import Problem, ProblemType


@dataclass(frozen=True, slots=True)
class TermsOfService:
    """The terms of this CA, at `url`; None when there are none. A change of the terms is a change of their URL."""

    url: str | None = None
    must_be_agreed_again: bool = False

    def refusal_of_new(self, *, agreed: bool) -> Problem | None:
        """Why no account is made for who agreed, or did not.

        §7.3: "the server MUST reject newAccount requests that do not have the "termsOfServiceAgreed" field set to "true"", with no
        type named for it. `userActionRequired` (§6.7) is the one that tells where the terms are.
        """
        if self.url is None or agreed:
            return None
        return self._action_required(
            "this CA asks for agreement to its terms of service; read them, then tell the client to agree"
        )

    def refusal(self, account: Account) -> Problem | None:
        """Why an account gets nothing new now, or None.

        §7.3.3: "If the server has changed its terms of service since a client initially agreed, and the server is unwilling to
        process a request without explicit agreement to the new terms, then it MUST return an error response …"
        """
        if not self.must_be_agreed_again or self.url is None or account.terms_of_service == self.url:
            return None
        return self._action_required(
            "the account has not agreed to the terms of service as they are now; read them, then agree by registering again with the "
            'same account key, or by an update of the account with "termsOfServiceAgreed": true'
        )

    def agreed_by(self, account: Account, *, agreed: bool) -> str | None:
        """The URL that the account now agrees to and has not agreed to before, or None."""
        return self.url if agreed and account.terms_of_service != self.url else None

    def _action_required(self, detail: str) -> Problem:
        # §7.3.3: "This response MUST include a Link header field with link relation "terms-of-service" and the latest
        # terms-of-service URL. The problem document … MUST also include an "instance" field, indicating a URL that the client
        # should direct a human user to visit".
        return Problem(
            ProblemType.USER_ACTION_REQUIRED,
            f"{detail}: {self.url}",
            instance=self.url,
            headers={"Link": f'<{self.url}>;rel="terms-of-service"'},
        )
