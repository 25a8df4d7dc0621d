"""One HTTP request and its answer, without a socket."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.observations import FailureKind, ObservedFailure
from acmeca.validation.exchange import BODY_LIMIT, HEADER_LIMIT, TOTAL_LIMIT, Exchange, Response

REDIRECTS = frozenset({301, 302, 307, 308})


def exchange() -> Exchange:
    return Exchange(authority="a.internal", path="/x", user_agent="acmeca/1", skip_body=REDIRECTS)


def run(data: bytes, *, step: int = 1 << 20) -> Response | ObservedFailure:
    """Feed an answer and then its end, in pieces of `step` bytes at most."""
    subject = exchange()
    while True:
        assert subject.wanted > 0
        size = min(step, subject.wanted)
        piece, data = data[:size], data[size:]
        outcome = subject.receive(piece)
        if outcome is not None:
            return outcome
        assert piece, "the end of the answer has to decide"


def answer(data: bytes) -> Response:
    outcome = run(data)
    assert isinstance(outcome, Response), outcome
    return outcome


def failure(data: bytes) -> ObservedFailure:
    outcome = run(data)
    assert isinstance(outcome, ObservedFailure), outcome
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable()
    return outcome


def headers_of(size: int) -> bytes:
    """The headers of an answer without a body, padded to exactly `size` bytes with the empty line."""
    frame = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: %s\r\n\r\n"
    return frame % (b"p" * (size - len(frame % b"")))


class TestRequest:
    def test_it_asks_for_identity_and_for_the_end_of_the_connection(self) -> None:
        lines = exchange().request.split(b"\r\n")
        assert lines[0] == b"GET /x HTTP/1.1"
        assert set(lines[1:-2]) == {
            b"Host: a.internal",
            b"User-Agent: acmeca/1",
            b"Accept: */*",
            b"Accept-Encoding: identity",
            b"Connection: close",
        }
        assert lines[-2:] == [b"", b""]


class TestAnswers:
    @pytest.mark.parametrize(
        "data",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more that nobody asked for",
            b"HTTP/1.1 200 OK\r\n\r\nbody",
            b"HTTP/1.0 200 OK\r\n\r\nbody",
            b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody",
            b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2;ext=1\r\ndy\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nTrailer: 1\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        ],
    )
    def test_every_framing_gives_the_body(self, data: bytes) -> None:
        assert answer(data) == Response(200, (), b"body", complete=True)

    def test_a_compressed_body_stays_compressed(self) -> None:
        body = gzip.compress(b"body")
        data = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        assert answer(data).body == body

    def test_the_body_of_a_redirect_is_not_waited_for(self) -> None:
        for status in sorted(REDIRECTS):
            data = b"HTTP/1.1 %d Away\r\nLocation: /y\r\nContent-Length: 99999\r\n\r\n" % status
            assert exchange().receive(data) == Response(status, (b"/y",), b"", complete=False)

    def test_every_location_is_told(self) -> None:
        assert answer(b"HTTP/1.1 302 Away\r\nLocation: /y\r\nlocation: /z\r\n\r\n").locations == (b"/y", b"/z")

    def test_the_status_is_known_before_the_body(self) -> None:
        subject = exchange()
        assert subject.status is None
        assert subject.receive(b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nabc") is None
        assert subject.status == 404
        assert subject.body == b"abc"


class TestBounds:
    def test_a_body_of_1024_bytes_is_whole_and_one_more_is_cut(self) -> None:
        frame = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
        assert answer(frame % (BODY_LIMIT, b"b" * BODY_LIMIT)) == Response(200, (), b"b" * BODY_LIMIT, complete=True)
        longer = b"b" * (BODY_LIMIT + 1)
        assert answer(frame % (len(longer), longer)) == Response(200, (), b"b" * BODY_LIMIT, complete=False)

    def test_an_endless_body_is_cut(self) -> None:
        outcome = answer(b"HTTP/1.1 200 OK\r\n\r\n" + b"b" * 100_000)
        assert (len(outcome.body), outcome.complete) == (BODY_LIMIT, False)

    def test_headers_of_8_kib_pass_and_one_more_byte_does_not(self) -> None:
        assert answer(headers_of(HEADER_LIMIT)).status == 200
        told = failure(headers_of(HEADER_LIMIT + 1))
        assert told.kind is FailureKind.RESPONSE
        assert "longer than 8192 bytes" in told.detail

    def test_a_flood_of_1xx_answers_counts_as_headers(self) -> None:
        assert "longer than 8192 bytes" in failure(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000).detail

    def test_a_body_of_one_byte_chunks_is_read(self) -> None:
        chunks = b"1\r\nb\r\n" * BODY_LIMIT + b"0\r\n\r\n"
        assert answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks).body == b"b" * BODY_LIMIT

    @pytest.mark.parametrize(
        "framing",
        [
            b"1;" + b"e" * 20_000 + b"\r\n",
            (b"1;" + b"e" * 1000 + b"\r\nb\r\n") * 50,
            b"0\r\n" + b"T: x\r\n" * 5000,
        ],
    )
    def test_framing_without_an_end_is_cut_off(self, framing: bytes) -> None:
        told = failure(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framing)
        assert told.kind is FailureKind.RESPONSE
        assert f"longer than {TOTAL_LIMIT} bytes" in told.detail


class TestNonsense:
    @pytest.mark.parametrize(
        "data",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"220 mail.internal ESMTP\r\n\r\n",
            b"\r\n\r\n",
            b"\x00" * 100,
            b"HTTP/2.0 200 OK\r\nbad header\r\n\r\n",
            b"HTTP/1.1 0200 OK\r\n\r\n",
            b"HTTP/1.1 099 Low\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbodyX\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n folded first\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        ],
    )
    def test_it_is_told_escaped(self, data: bytes) -> None:
        assert failure(data).kind is FailureKind.RESPONSE

    def test_the_first_bytes_are_shown(self) -> None:
        told = failure(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        assert (told.detail, told.quoted) == ("the answer is not HTTP/1.x", b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    def test_what_is_not_framed_is_quoted_apart(self) -> None:
        """RULES §3: the detail holds nothing of an answer, so that it may be shown whoever gave the answer."""
        told = failure(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n")
        assert "secret" not in told.detail
        assert b"secret" in told.quoted

    def test_no_answer_at_all(self) -> None:
        told = failure(b"")
        assert (told.kind, told.detail) == (FailureKind.CLOSED, "the connection was closed without an answer")

    @pytest.mark.parametrize(
        "data",
        [
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 200 OK\r\nA: b\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbody",
        ],
    )
    def test_an_answer_cut_short(self, data: bytes) -> None:
        assert failure(data).kind is FailureKind.CLOSED


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Location: /\r\n",
        b"\r\n",
        b"\n",
        b"4\r\n",
        b"0\r\n",
        b"body",
        b"b" * 1100,
        b"A: " + b"a" * 3000 + b"\r\n",
        b"\x00",
    ]
)


class TestReads:
    @settings(deadline=None, max_examples=150)
    @given(st.lists(PIECES, max_size=12).map(b"".join), st.integers(1, 700))
    def test_the_outcome_does_not_depend_on_how_the_bytes_are_cut(self, data: bytes, step: int) -> None:
        """Rule 1, but for the text of a protocol error, which may quote more or less of the line."""
        whole, cut = run(data), run(data, step=step)
        if isinstance(whole, ObservedFailure) and isinstance(cut, ObservedFailure):
            assert whole.kind is cut.kind
        else:
            assert whole == cut

    @settings(deadline=None, max_examples=150)
    @given(st.binary(max_size=400), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
    def test_nothing_that_a_peer_sends_raises(self, data: bytes, start: bytes) -> None:
        assert run(start + data) is not None
