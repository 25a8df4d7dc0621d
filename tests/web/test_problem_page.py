"""The page that problems link to: every type is explained on it, and it is docs/problems.md and nothing else."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from acmeca.acme.problem import ProblemType
from acmeca.config import SECTIONS
from acmeca.urls import Paths, Urls
from acmeca.web.markdown import parse_document
from acmeca.web.problem_page import add_problem_page, help_links, read_problems

Client = TestClient[web.Request, web.Application]
SOURCE: Final = Path(__file__).parents[2] / "docs" / "problems.md"

RFC_8555: Final = {  # §6.7, all of them
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
}
EXTENSIONS: Final = {"alreadyReplaced", "invalidProfile"}  # RFC 9773 §7.4, draft-ietf-acme-profiles §4


@pytest.fixture
async def client(aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    app = web.Application()
    add_problem_page(app)
    return await aiohttp_client(app)


def test_every_type_is_explained() -> None:
    """Every type that can be sent, which are those of the standards; in their order; and no type that there is not."""
    anchors = [section.anchor for section in read_problems().sections]
    assert set(anchors) == {type_.value for type_ in ProblemType}
    assert set(anchors) == RFC_8555 | EXTENSIONS
    assert anchors == sorted(anchors, key=str.lower)


def test_each_says_what_to_do() -> None:
    for section in read_problems().sections:
        assert section.html.startswith("<p>")
        assert "<li>" in section.html or section.anchor == "alreadyRevoked", section.anchor
        assert len(section.html) > 100, section.anchor


def test_the_configuration_it_names_is_there() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    named = re.findall(r"`(server|policy|validation|retention|limits|storage)\.([a-z_]+)`", text)
    assert len(named) > 5
    assert [(section, key) for section, key in named if key not in SECTIONS[section].model_fields] == []


def test_links() -> None:
    links = help_links(Urls(base="https://ca.corp.internal:8443", status="http://pki.corp.internal"))
    assert set(links) == set(ProblemType)
    assert links[ProblemType.BAD_NONCE] == '<https://ca.corp.internal:8443/problems#badNonce>;rel="help"'


async def test_the_page(client: Client) -> None:
    """It has an anchor for each type, and the document's words."""
    response = await client.get(Paths.PROBLEMS)
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    text = await response.text()
    document = parse_document(SOURCE.read_text(encoding="utf-8"))
    assert re.findall(r'<section id="([^"]+)"', text) == [section.anchor for section in document.sections]
    assert re.findall(r'<li><a href="#([^"]+)"', text) == [section.anchor for section in document.sections]
    for section in document.sections:
        assert section.html in text
    assert document.lead in text
    assert "<script" not in text
    assert "style=" not in text


async def test_head_and_a_known_copy(client: Client) -> None:
    head = await client.head(Paths.PROBLEMS)
    assert head.status == 200
    again = await client.get(Paths.PROBLEMS, headers={"If-None-Match": head.headers["ETag"]})
    assert again.status == 304
