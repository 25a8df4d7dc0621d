"""http-01 (RFC 8555 §8.3): the judgement of observations."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.http01 import Hop, Http01Observation, judge_http01
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import Attempt, FailureKind, ObservedFailure
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import escape

THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
EXPECTED = f"{TOKEN}.{THUMBPRINT}"
NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
URL = f"http://www.corp.internal/.well-known/acme-challenge/{TOKEN}"
ORIGIN = "http://www.corp.internal"
OTHER = Identifier(IdentifierType.DNS, "other.corp.internal")
SECRET = b"hunter2"
PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))


def own(
    url: str = URL, *, host: Identifier = NAME, address: str = "10.0.0.5", port: int = 80, status: int | None = None
) -> Hop:
    """A hop that was answered, by the identifier's own host unless told otherwise."""
    origin = "/".join(url.split("/")[:3])
    return Hop(url, origin, host, attempts=(Attempt(f"{address}:{port}", None),), status=status)


def elsewhere(url: str = "http://other.corp.internal/x", *, status: int | None = None) -> Hop:
    """A hop that another host answered."""
    return own(url, host=OTHER, address="10.0.0.6", status=status)


def seen(body: bytes = EXPECTED.encode(), *, status: int = 200, complete: bool = True) -> Http01Observation:
    return Http01Observation(NAME, (own(status=status),), body=body, body_complete=complete)


def failed(kind: FailureKind, detail: str = "it broke") -> Http01Observation:
    return Http01Observation(NAME, (Hop(URL, ORIGIN, NAME),), failure=ObservedFailure(kind, detail))


def judged(observation: Http01Observation) -> Problem:
    problem = judge_http01(observation, expected=EXPECTED)
    assert problem is not None
    assert set(problem.detail) <= PRINTABLE
    assert problem.detail.startswith("GET ")
    assert "Check" in problem.detail or "Only redirects" in problem.detail or "The " in problem.detail
    return problem


class TestJudgement:
    @pytest.mark.parametrize("status", [200, 201, 203, 206, 299])
    def test_the_exact_key_authorization_with_2xx_is_valid(self, status: int) -> None:
        assert judge_http01(seen(status=status), expected=EXPECTED) is None

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b" ", b"\t\v\f \r\n\n", b" " * 500])
    def test_white_space_at_the_end_is_ignored(self, end: bytes) -> None:
        """§8.3: "The server SHOULD ignore whitespace characters at the end of the body.\""""
        assert judge_http01(seen(EXPECTED.encode() + end), expected=EXPECTED) is None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" " + EXPECTED.encode(),
            b"\n" + EXPECTED.encode(),
            b"\xef\xbb\xbf" + EXPECTED.encode(),
            EXPECTED.encode() + b"\0",
            EXPECTED.encode() + b"\xa0",
            EXPECTED.encode() + b"\x1c",
            EXPECTED.encode() + b".",
            EXPECTED.encode()[:-1],
            EXPECTED.lower().encode(),
            TOKEN.encode(),
            EXPECTED.encode("utf-16"),
            b'"' + EXPECTED.encode() + b'"',
            EXPECTED.encode() + b"\n" + EXPECTED.encode(),
        ],
    )
    def test_anything_else_is_an_incorrect_response(self, body: bytes) -> None:
        assert judged(seen(body)).type is ProblemType.INCORRECT_RESPONSE

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=120))
    def test_no_other_bytes_are_valid(self, body: bytes) -> None:
        expected = EXPECTED if body.rstrip(b" \t\r\n\v\f") != EXPECTED.encode() else "another"
        assert judge_http01(seen(body), expected=expected) is not None

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 500, 503, 999])
    def test_a_status_other_than_2xx_is_invalid_even_with_the_right_body(self, status: int) -> None:
        problem = judged(seen(status=status))
        assert problem.type is ProblemType.INCORRECT_RESPONSE
        assert f"status {status}" in problem.detail

    def test_a_cut_body_is_invalid_even_if_it_begins_rightly(self) -> None:
        body = (EXPECTED + " " * 1024)[:1024].encode()
        problem = judged(seen(body, complete=False))
        assert problem.type is ProblemType.INCORRECT_RESPONSE
        assert "more than 1024 bytes" in problem.detail

    @pytest.mark.parametrize(
        ("kind", "type_"),
        [
            (FailureKind.RESOLUTION, ProblemType.DNS),
            (FailureKind.NOT_ALLOWED, ProblemType.CONNECTION),
            (FailureKind.CONNECT, ProblemType.CONNECTION),
            (FailureKind.TLS, ProblemType.TLS),
            (FailureKind.TIMEOUT, ProblemType.CONNECTION),
            (FailureKind.CLOSED, ProblemType.CONNECTION),
            (FailureKind.RESPONSE, ProblemType.INCORRECT_RESPONSE),
            (FailureKind.REDIRECT, ProblemType.INCORRECT_RESPONSE),
        ],
    )
    def test_every_kind_of_failure_has_its_problem_type(self, kind: FailureKind, type_: ProblemType) -> None:
        problem = judged(failed(kind))
        assert problem.type is type_
        assert "it broke" in problem.detail

    def test_every_kind_of_failure_is_invalid_even_with_the_right_body(self) -> None:
        for kind in FailureKind:
            observation = replace(seen(), failure=ObservedFailure(kind, "it broke"))
            assert judge_http01(observation, expected=EXPECTED) is not None

    def test_a_failure_after_an_error_status_is_told_by_the_status(self) -> None:
        observation = replace(
            seen(b"<html>", status=404, complete=False), failure=ObservedFailure(FailureKind.CLOSED, "it broke")
        )
        assert "status 404" in judged(observation).detail

    def test_a_redirect_that_is_not_followed_is_told_as_such(self) -> None:
        observation = replace(seen(b"", status=302), failure=ObservedFailure(FailureKind.REDIRECT, "port 22"))
        assert "port 22" in judged(observation).detail


class TestDetail:
    def test_it_says_what_was_asked_of_whom_and_what_came_back(self) -> None:
        detail = judged(seen(b"<html>hello</html>", status=404)).detail
        assert f'GET {URL} at 10.0.0.5:80: answered with status 404 and the body "<html>hello</html>". Check' in detail

    def test_it_names_the_endpoint_that_took_the_connection(self) -> None:
        attempts = (Attempt("[fd00::5]:80", "connection refused"), Attempt("10.0.0.5:80", None))
        hop = replace(own(status=500), attempts=attempts)
        assert "at 10.0.0.5:80" in judged(Http01Observation(NAME, (hop,), body_complete=True)).detail

    def test_it_names_the_redirects_and_escapes_their_urls(self) -> None:
        """Rule 4: a peer chose the URL of a redirect."""
        other = 'http://other.corp.internal/"\\' + "a" * 400
        hops = (own(status=302), elsewhere(other, status=500))
        detail = judged(Http01Observation(NAME, hops, body=b"x", body_complete=True)).detail
        assert f"after 1 redirect from {URL}" in detail
        assert "a" * 64 not in detail
        assert "\\x22\\x5c" in detail

    @pytest.mark.parametrize(
        ("body", "hint"),
        [
            (b"\x1f\x8b\x08\x00", "compressed"),
            (TOKEN.encode() + b"\n", "token alone"),
            (TOKEN.encode() + b"." + b"A" * 43, "another account key"),
            (b"<pre>" + EXPECTED.encode(), "stand alone"),
            (b"<html>", "right directory"),
        ],
    )
    def test_it_says_what_to_check(self, body: bytes, hint: str) -> None:
        assert hint in judged(seen(body)).detail

    def test_an_empty_body_is_called_empty(self) -> None:
        assert "an empty body" in judged(seen(b"")).detail

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=300), st.integers(200, 599))
    def test_it_stays_printable_and_short_whatever_the_peer_sent(self, body: bytes, status: int) -> None:
        problem = judge_http01(seen(body, status=status), expected=EXPECTED)
        assert problem is not None
        assert set(problem.detail) <= PRINTABLE
        assert len(problem.detail) < 600
        json.dumps(problem.to_json())


class TestRedirectedAnswers:
    """RFC 8555 §10.4: a server that follows redirects can be made to read what only it can reach. What it reads there
    must not come back in a problem."""

    @pytest.mark.parametrize(
        "last",
        [
            elsewhere(status=200),
            own("http://www.corp.internal/x", address="10.0.0.6", status=200),
            own("http://10.0.0.5/x", host=Identifier(IdentifierType.IP, "10.0.0.5"), status=200),
        ],
        ids=["another host", "the name pointed elsewhere meanwhile", "an address instead of the name"],
    )
    @pytest.mark.parametrize("status", [200, 404, 500])
    @pytest.mark.parametrize("complete", [True, False])
    def test_of_another_host_the_status_is_shown_and_nothing_else(
        self, last: Hop, status: int, *, complete: bool
    ) -> None:
        details = set()
        for body in (
            b"",
            SECRET,
            SECRET * 90,
            b"\x1f\x8b" + SECRET,
            TOKEN.encode() + b"." + SECRET,
            EXPECTED.encode() * 2,
        ):
            hops = (own(status=302), replace(last, status=status))
            problem = judged(Http01Observation(NAME, hops, body=body, body_complete=complete))
            assert problem.type is ProblemType.INCORRECT_RESPONSE
            assert f"status {status}" in problem.detail
            assert "a redirect to another host or address brings is not shown" in problem.detail
            details.add(problem.detail)
        assert len(details) == 1, "no hint tells one body from another"

    @pytest.mark.parametrize("kind", list(FailureKind))
    def test_what_a_failure_quotes_of_another_host_is_not_shown(self, kind: FailureKind) -> None:
        failure = ObservedFailure(kind, "it broke", SECRET)
        foreign = Http01Observation(NAME, (own(status=302), elsewhere()), failure=failure)
        assert "hunter2" not in judged(foreign).detail
        assert "it broke." in judged(foreign).detail
        shown = Http01Observation(NAME, (own(status=302), own("http://www.corp.internal/x")), failure=failure)
        assert 'it broke: "hunter2"' in judged(shown).detail

    def test_the_path_that_another_host_names_is_not_shown(self) -> None:
        third = Identifier(IdentifierType.DNS, "third.corp.internal")
        last = own("http://third.corp.internal/?session=hunter2", host=third, address="10.0.0.7", status=404)
        for last_hop in (last, own("http://www.corp.internal/?session=hunter2", status=404)):
            hops = (own(status=302), elsewhere(status=302), last_hop)
            detail = judged(Http01Observation(NAME, hops, body=b"x", body_complete=True)).detail
            assert "hunter2" not in detail
            assert f'GET "{last_hop.origin}/..." at ' in detail

    def test_the_path_that_the_own_host_names_is(self) -> None:
        detail = judged(Http01Observation(NAME, (own(status=302), elsewhere(status=404)), body=b"x")).detail
        assert 'GET "http://other.corp.internal/x" at 10.0.0.6:80' in detail

    @pytest.mark.parametrize("url", ["https://www.corp.internal/x", "http://www.corp.internal:443/x"])
    def test_of_the_own_host_at_another_port_the_body_is_shown(self, url: str) -> None:
        hops = (own(status=302), own(url, port=443, status=404))
        assert "hunter2" in judged(Http01Observation(NAME, hops, body=SECRET, body_complete=True)).detail

    def test_the_key_authorization_counts_from_wherever_it_comes(self) -> None:
        """§8.3: "The server SHOULD follow redirects": a host may leave its challenges to another one."""
        observation = Http01Observation(
            NAME, (own(status=302), elsewhere(status=200)), body=EXPECTED.encode() + b"\n", body_complete=True
        )
        assert judge_http01(observation, expected=EXPECTED) is None


class TestEscape:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", ""),
            (b"plain text", "plain text"),
            (b"a\r\nb", "a\\x0d\\x0ab"),
            (b"\x1b[31m", "\\x1b[31m"),
            (b'"\\', "\\x22\\x5c"),
            ("ü".encode(), "\\xc3\\xbc"),
            (b"x" * 64, "x" * 64),
            (b"x" * 65, "x" * 64 + "..."),
            (b"x" * 63 + b"\n", "x" * 63 + "..."),
        ],
    )
    def test_examples(self, data: bytes, text: str) -> None:
        assert escape(data) == text

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200))
    def test_it_is_printable_quotable_and_at_most_64_characters(self, data: bytes) -> None:
        text = escape(data)
        assert set(text) <= PRINTABLE - {'"'}
        assert len(text.removesuffix("...")) <= 64


def test_an_observation_tells_its_walk() -> None:
    hops = (
        replace(
            own(status=302), attempts=(Attempt("[fd00::5]:80", "connection refused"), Attempt("10.0.0.5:80", None))
        ),
        elsewhere("http://other/", status=200),
    )
    observation = Http01Observation(NAME, hops, body=b"", body_complete=True)
    assert observation.url == URL
    assert observation.status == 200
    assert observation.redirects == ("http://other/",)
    assert observation.endpoints_tried == ("[fd00::5]:80", "10.0.0.5:80", "10.0.0.6:80")
    assert hops[0].endpoint == "10.0.0.5:80"
    assert hops[0].address == "10.0.0.5"
    assert replace(own(), attempts=(Attempt("[fd00::5]:80", None),)).address == "[fd00::5]"
    assert Hop(URL, ORIGIN, NAME).endpoint is None
    assert Hop(URL, ORIGIN, NAME).address is None
