"""The status listener: OCSP by GET and POST, caching, CRLs, certificates (RFC 6960 §A.1, RFC 9919 §7, RULES §5)."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import pytest
import pytest_asyncio
from cryptography import x509

from acmeca.pki import der
from acmeca.web import status
from tests.support import ocsp_requests
from tests.support.acme_client import Answer, Issued
from tests.support.server import RunningCa, running_ca
from tests.support.status_client import OCSP_RESPONSE, StatusClient, read_answer, response_status

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issued(ca: RunningCa) -> Issued:
    return await (await ca.client()).issue("status.localhost")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(ca: RunningCa) -> StatusClient:
    return ca.relying_party()


def find_request(party: StatusClient, wanted: bytes) -> tuple[int, bytes]:
    """A serial whose request has these characters in its base64."""
    for serial in range(1 << 120, (1 << 120) + 200_000):
        request = party.request(serial)
        if wanted in base64.b64encode(request):
            return serial, request
    raise AssertionError(f"no request holds {wanted!r}")


class TestGet:
    """RFC 6960 §A.1.1: GET {url}/{url-encoding of base-64 encoding of the DER encoding of the OCSPRequest}."""

    async def test_encoded_and_raw(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        request = party.request(issued.serial)
        for raw in (False, True):
            (said,) = read_answer(await party.get(request, raw=raw), ca.issuer)
            assert said.status == "GOOD"

    @pytest.mark.parametrize("wanted", [b"/", b"+", b"//", b"/+", b"+/"])
    async def test_characters_that_urls_treat_specially(
        self, ca: RunningCa, party: StatusClient, wanted: bytes
    ) -> None:
        """RULES §5: "base64 holds `/`, `//` and `+`, which frameworks merge or redirect, and clients percent-encode or not"."""
        serial, request = find_request(party, wanted)
        text = base64.b64encode(request).decode()
        spellings = {
            text,
            quote(text, safe=""),
            quote(text, safe="/"),
            quote(text, safe="+"),
            text.replace("=", "%3D"),
            text.replace("+", "%2b").replace("/", "%2f").replace("=", "%3d"),
            text.rstrip("="),
            quote(text.rstrip("="), safe=""),
        }
        for spelling in spellings:
            answer = await party.fetch(f"{ca.issuer.ocsp_url}/{spelling}")
            assert read_answer(answer, ca.issuer)[0].status == "UNKNOWN"
            (said,) = x509.ocsp.load_der_ocsp_response(answer.body).responses
            assert said.serial_number == serial

    async def test_a_leading_slash(self, ca: RunningCa, party: StatusClient) -> None:
        """A base64 text may begin with anything; the slash that divides is one."""
        answer = await party.fetch(f"{ca.issuer.ocsp_url}//AAAA")
        assert response_status(answer) == "MALFORMED_REQUEST"

    async def test_absolute_form(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        """RFC 9112 §3.2.2: a server "MUST accept the absolute-form in requests": proxies send it."""
        text = base64.b64encode(party.request(issued.serial)).decode()
        raw = await ca.raw(
            f"GET {ca.issuer.ocsp_url}/{text} HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n".encode(),
            status=True,
        )
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == (await party.get(party.request(issued.serial))).body

    async def test_a_query_is_no_part_of_it(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        text = quote(base64.b64encode(party.request(issued.serial)).decode(), safe="")
        answer = await party.fetch(f"{ca.issuer.ocsp_url}/{text}?cache=no")
        assert read_answer(answer, ca.issuer)[0].status == "GOOD"

    @pytest.mark.parametrize("text", ["", "!", "AAAA", "A", "%", "%GG", "AAA=A", "MA==MA==", "%00", "a b", "%0a", "."])
    async def test_no_request(self, ca: RunningCa, party: StatusClient, text: str) -> None:
        """RFC 6960 §4.2.1: malformedRequest, with HTTP 200."""
        raw = await ca.raw(
            f"GET /ocsp/{ca.issuer.id}/{text.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
            status=True,
        )
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == der.sequence(der.enumerated(1))

    async def test_head(self, party: StatusClient, issued: Issued) -> None:
        """RFC 9110 §9.3.2: HEAD has the headers of GET and no body."""
        request = party.request(issued.serial)
        get, head = await party.get(request), await party.get(request, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert {**head.headers, "Date": ""} == {**get.headers, "Date": ""}
        assert int(head.headers["Content-Length"]) == len(get.body)


class TestPost:
    async def test_same_answer(self, party: StatusClient, issued: Issued) -> None:
        request = party.request(issued.serial)
        post, get = await party.post(request), await party.get(request)
        assert post.body == get.body
        assert post.content_type == OCSP_RESPONSE

    async def test_any_content_type(self, party: StatusClient, issued: Issued) -> None:
        """Clients exist that forget it; what else could the body be?"""
        for type_ in ("application/octet-stream", "text/plain"):
            answer = await party.post(party.request(issued.serial), headers={"Content-Type": type_})
            assert response_status(answer) == "SUCCESSFUL"

    async def test_chunked(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        request = party.request(issued.serial)
        chunks = b"".join(b"%x\r\n%s\r\n" % (1, request[i : i + 1]) for i in range(len(request))) + b"0\r\n\r\n"
        raw = await ca.raw(
            f"POST /ocsp/{ca.issuer.id} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
            + chunks,
            status=True,
        )
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert raw.partition(b"\r\n\r\n")[2] == (await party.post(request)).body

    async def test_sizes(self, party: StatusClient) -> None:
        """16 KiB are read, 64 KiB are taken, more is refused."""
        assert response_status(await party.post(bytes(16 * 1024 + 1))) == "MALFORMED_REQUEST"
        assert response_status(await party.post(bytes(64 * 1024))) == "MALFORMED_REQUEST"
        assert (await party.post(bytes(64 * 1024 + 1))).status == 413

    async def test_a_body_that_does_not_come(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """RULES §5: "Silent connections do not use up a worker"."""
        monkeypatch.setattr(status, "_BODY_SECONDS", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", ca.status_port)
        try:
            writer.write(f"POST /ocsp/{ca.issuer.id} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n0".encode())
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        finally:
            writer.close()
            await writer.wait_closed()


class TestHeaders:
    """RFC 9919 §7.2, RULES §5."""

    async def test_of_an_answer(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        for answer in (await party.get(party.request(issued.serial)), await party.post(party.request(issued.serial))):
            (said,) = read_answer(answer, ca.issuer)
            assert answer.headers["Cache-Control"] == "max-age=300, public, no-transform, must-revalidate"
            assert parsedate_to_datetime(answer.headers["Expires"]) == said.next_update
            assert parsedate_to_datetime(answer.headers["Last-Modified"]) == said.this_update
            assert answer.headers["ETag"].startswith('"')
            assert answer.headers["Content-Type"] == "application/ocsp-response"
            assert answer.headers["Server"] == "acmeca"
            assert "Replay-Nonce" not in answer.headers

    async def test_produced_at_is_this_update(self, party: StatusClient, issued: Issued) -> None:
        response = x509.ocsp.load_der_ocsp_response((await party.get(party.request(issued.serial))).body)
        assert response.produced_at_utc == next(iter(response.responses)).this_update_utc

    async def test_max_age_never_passes_next_update(self, ca: RunningCa, party: StatusClient) -> None:
        """RFC 9919 §7.2: a cache holds nothing beyond nextUpdate."""
        request = party.request(4711)
        start = ca.clock()
        try:
            answer = await party.get(request)
            (said,) = read_answer(answer, ca.issuer)
            # Near the end of the responder's life an answer lives shorter than five minutes.
            responder = x509.ocsp.load_der_ocsp_response(answer.body).certificates[0]
            ca.clock.moment = responder.not_valid_after_utc - timedelta(seconds=100)
            short = await party.get(request)
            assert short.headers["Cache-Control"].startswith("max-age=100, ")
            assert read_answer(short, ca.issuer)[0].next_update == responder.not_valid_after_utc
            assert said.next_update != responder.not_valid_after_utc
        finally:
            ca.clock.moment = start
            await party.get(request)

    async def test_304(self, party: StatusClient, issued: Issued) -> None:
        """RULES §5: "a 304 repeats ETag, Cache-Control and Expires"; RFC 9110 §15.4.5."""
        request = party.request(issued.serial)
        first = await party.get(request)
        for tag in (first.headers["ETag"], "W/" + first.headers["ETag"], '"x", ' + first.headers["ETag"], "*"):
            for method in ("GET", "HEAD"):
                again = await party.get(request, method=method, headers={"If-None-Match": tag})
                assert (again.status, again.body) == (304, b"")
                for name in ("ETag", "Cache-Control", "Expires", "Last-Modified"):
                    assert again.headers[name] == first.headers[name]
        for tag in ('"another"', "junk", "", '"'):
            assert (await party.get(request, headers={"If-None-Match": tag})).status == 200
        # RFC 9110 §13.1.2: only GET and HEAD are answered 304.
        assert (await party.post(request, headers={"If-None-Match": first.headers["ETag"]})).status == 200

    async def test_a_date_alone_is_no_validator(self, ca: RunningCa, party: StatusClient) -> None:
        """Rule 2 of web/status.py: a certificate can be revoked in the second in which it was said to be good."""
        client = await ca.client()
        issued = await client.issue("same-second.localhost")
        request = party.request(issued.serial)
        good = await party.get(request)
        (await client.revoke(issued.der)).ok()
        headers = {"If-Modified-Since": good.headers["Last-Modified"], "If-None-Match": good.headers["ETag"]}
        revoked = await party.get(request, headers=headers)
        assert read_answer(revoked, ca.issuer)[0].status == "REVOKED"
        assert revoked.headers["ETag"] != good.headers["ETag"]
        revoked = await party.get(request, headers={"If-Modified-Since": good.headers["Last-Modified"]})
        assert revoked.status == 200

    async def test_a_nonce_is_private(self, party: StatusClient, issued: Issued) -> None:
        """RULES §5: "one with a nonce is `private, max-age=0`"; never `no-store`."""
        request = party.request(issued.serial, extensions=[ocsp_requests.nonce(b"n" * 32)])
        for answer in (await party.get(request), await party.post(request)):
            assert answer.headers["Cache-Control"] == "private, max-age=0"
            assert "ETag" not in answer.headers
            assert b"n" * 32 in answer.body

    @pytest.mark.parametrize(("length", "good"), [(0, False), (1, True), (128, True), (129, False)])
    async def test_nonce_lengths(self, party: StatusClient, issued: Issued, length: int, *, good: bool) -> None:
        """RFC 9654 §2.1: 1 to 128 octets are echoed exactly; none, or more than 128, is malformed."""
        request = party.request(issued.serial, extensions=[ocsp_requests.nonce(bytes(range(length)))])
        answer = await party.post(request)
        assert response_status(answer) == ("SUCCESSFUL" if good else "MALFORMED_REQUEST")
        if good:
            response = x509.ocsp.load_der_ocsp_response(answer.body)
            assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == bytes(range(length))

    async def test_errors_are_not_cached(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        """RULES §5: "errors are not cached"."""
        answers = [
            await party.post(b"junk"),
            await party.fetch(f"{ca.issuer.ocsp_url}/junk"),
            await party.fetch(ca.urls.ocsp("nobody"), method="POST", body=party.request(issued.serial)),
        ]
        for answer in answers:
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            for name in ("ETag", "Expires", "Last-Modified"):
                assert name not in answer.headers

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("GET", "/ocsp/{id}", "POST"),
            ("PUT", "/ocsp/{id}", "POST"),
            ("DELETE", "/ocsp/{id}/AAAA", "GET,HEAD"),
            ("POST", "/ocsp/{id}/AAAA", "GET,HEAD"),
            ("POST", "/crl/{id}.crl", "GET,HEAD"),
            ("PUT", "/issuer/{id}.der", "GET,HEAD"),
            ("POST", "/bundle.pem", "GET,HEAD"),
            ("OPTIONS", "/roots.pem", "GET,HEAD"),
        ],
    )
    async def test_405(self, ca: RunningCa, party: StatusClient, method: str, path: str, allow: str) -> None:
        """RULES §5: "A 405 carries `Allow`"."""
        answer = await party.fetch(ca.urls.status + path.format(id=ca.issuer.id), method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, allow)


class TestMalformed:
    async def test_five_hundred(self, ca: RunningCa, party: StatusClient, issued: Issued) -> None:
        """RULES §5: "unparsable is `malformedRequest` … with HTTP 200", and no bytes make a 5xx."""
        source = random.Random(6960)
        good = party.request(issued.serial, "sha256", extensions=[ocsp_requests.nonce(b"n" * 16)])
        before = await ca.counts()
        seen = set()
        for number in range(500):
            body = bytearray(good)
            match number % 5:
                case 0:
                    body[source.randrange(len(body))] ^= 1 << source.randrange(8)
                case 1:
                    del body[source.randrange(len(body)) :]
                case 2:
                    body.insert(source.randrange(len(body)), source.randrange(256))
                case 3:
                    body = bytearray(source.randbytes(source.randrange(200)))
                case 4:
                    body += source.randbytes(source.randrange(1, 9))
            if number % 2:
                answer = await party.post(bytes(body))
            else:
                answer = await party.get(bytes(body), raw=bool(number % 4))
            seen.add(response_status(answer))
        assert seen <= {"MALFORMED_REQUEST", "UNAUTHORIZED", "SUCCESSFUL"}
        assert await ca.counts() == before
        assert await party.status(issued.serial) == "GOOD"

    @pytest.mark.parametrize("path", ["/crl/{}.crl", "/issuer/{}.der", "/issuer/{}.pem", "/{}", "/ocsp/{}"])
    async def test_paths(self, ca: RunningCa, party: StatusClient, path: str) -> None:
        """What is not there is 404, and what was asked is not repeated to whoever reads the answer."""
        for text in ("nobody", "%00", "%0a%0d", "%ff", "%3Cscript%3E", "..%2f..%2fetc%2fpasswd", "'--", "a" * 3000):
            raw = await ca.raw(
                f"GET {path.format(text)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), status=True
            )
            assert raw.split(b" ")[1] in {b"404", b"405"}, raw
            assert b"script" not in raw
            assert b"nobody" not in raw


class TestFiles:
    async def test_crl(self, ca: RunningCa, party: StatusClient) -> None:
        answer = await party.fetch(ca.issuer.crl_url)
        crl = x509.load_der_x509_crl(answer.body)
        assert answer.content_type == "application/pkix-crl"
        assert parsedate_to_datetime(answer.headers["Expires"]) == crl.next_update_utc
        assert parsedate_to_datetime(answer.headers["Last-Modified"]) == crl.last_update_utc
        assert answer.headers["Cache-Control"] == "max-age=300, public, no-transform, must-revalidate"
        again = await party.fetch(ca.issuer.crl_url, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])

    async def test_a_new_crl_has_a_new_tag(self, ca: RunningCa, party: StatusClient) -> None:
        first = await party.fetch(ca.issuer.crl_url)
        await ca.services.status.publish_crl(ca.issuer.id)
        second = await party.fetch(ca.issuer.crl_url, headers={"If-None-Match": first.headers["ETag"]})
        assert second.status == 200
        assert second.headers["ETag"] != first.headers["ETag"]

    async def test_a_crl_past_its_end(self, ca: RunningCa, party: StatusClient) -> None:
        """A stale CRL is not called fresh."""
        start = ca.clock()
        ca.clock.advance(days=400)
        try:
            answer = await party.fetch(ca.root.crl_url)
            assert answer.headers["Cache-Control"].startswith("max-age=0, ")
        finally:
            ca.clock.moment = start

    @pytest.mark.parametrize("which", ["issuer", "root"])
    async def test_certificates(self, ca: RunningCa, party: StatusClient, which: str) -> None:
        """RFC 5280 §4.2.2.1: caIssuers over http is DER, application/pkix-cert."""
        issuer = ca.issuer if which == "issuer" else ca.root
        answer = await party.fetch(issuer.issuer_url)
        assert (answer.content_type, answer.body) == ("application/pkix-cert", issuer.certificate_der)
        pem = await party.fetch(ca.urls.issuer_pem(issuer.id))
        assert x509.load_pem_x509_certificate(pem.body) == issuer.certificate
        for one in (answer, pem):
            assert "max-age=" in one.headers["Cache-Control"]
            assert "ETag" in one.headers

    async def test_bundles(self, ca: RunningCa, party: StatusClient) -> None:
        bundle = x509.load_pem_x509_certificates((await party.fetch(ca.urls.bundle)).body)
        assert bundle == [ca.issuer.certificate, ca.root.certificate]
        roots = await party.fetch(ca.urls.roots)
        assert x509.load_pem_x509_certificates(roots.body) == [ca.root.certificate]
        assert (await party.fetch(ca.urls.roots, headers={"If-None-Match": roots.headers["ETag"]})).status == 304

    async def test_live(self, ca: RunningCa, party: StatusClient) -> None:
        answer: Answer = await party.fetch(ca.urls.status + "/health/live")
        assert (answer.status, answer.body, answer.headers["Cache-Control"]) == (200, b"live\n", "no-store")

    async def test_acme_is_not_here(self, ca: RunningCa, party: StatusClient) -> None:
        """The plain listener serves no ACME, and the ACME listener no status."""
        assert (await party.fetch(ca.urls.status + "/acme/directory")).status == 404
        async with ca.session().get(ca.urls.base + f"/crl/{ca.issuer.id}.crl") as answer:
            assert answer.status == 404
