"""The front page: what a person needs who has just been told "use our internal CA".

Rule 1: the page shows values and decides nothing. It is the same on the ACME listener and on the status listener.
Rule 2: no script, no inline style, nothing from elsewhere. The Content-Security-Policy says so, and a test with a browser
holds the page to it.
Rule 3: a value is safe where it stands. Free text (names of the CA, subjects, patterns) stands in HTML only, escaped. What
stands in a command is a URL, a host name or a file name made of plain characters: these are checked or derived when the
model is built, because escaping for HTML stops neither `javascript:` in a link nor `$(…)` in a shell.
Rule 4: the page never claims to be proof. It may have come over plain http, so a root's fingerprint is to be compared
with one that came another way (RFC 5280 §6.1.1 (d): a trust anchor is trusted because it was delivered "by some
trustworthy out-of-band procedure").
"""

import inspect
import ipaddress
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import aiohttp_jinja2
import jinja2
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from acmeca import resources
from acmeca.urls import Paths
from acmeca.web.pages import build_page

# RFC 3986 §2 without the characters that mean something to a shell, a YAML reader or a Caddyfile.
_URL: Final = re.compile(r"https?://[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]*(?:/[A-Za-z0-9._~%/-]*)?\Z")
_HOST_NAME: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateCard:
    """What the page says about one CA certificate.

    `subject` is free text for people; the times are aware; `sha256_fingerprint` is the 32-byte digest of the DER. `pem_url` and
    `der_url` serve this one certificate; `crl_url` and `ocsp_url` tell about the certificates that it has signed, None
    where there is no such service. Raises ValueError for anything else.
    """

    subject: str
    not_before: datetime
    not_after: datetime
    sha256_fingerprint: bytes
    pem_url: str
    der_url: str
    crl_url: str | None = None
    ocsp_url: str | None = None

    def __post_init__(self) -> None:
        if len(self.sha256_fingerprint) != 32:
            raise ValueError(f"a SHA-256 fingerprint has 32 bytes, not {len(self.sha256_fingerprint)}")
        if self.not_before.tzinfo is None or self.not_after.tzinfo is None:
            raise ValueError("validity times carry their time zone")
        for url in (self.pem_url, self.der_url, self.crl_url, self.ocsp_url):
            if url is not None:
                _require_url(url)

    @property
    def fingerprint_groups(self) -> tuple[str, ...]:
        """The fingerprint as `openssl x509 -fingerprint` prints it, cut into groups of eight bytes; joined they are the whole."""
        pairs = self.sha256_fingerprint.hex(":").upper()
        return tuple(pairs[start : start + 24] for start in range(0, len(pairs), 24))

    @property
    def ocsp_host_is_name(self) -> bool:
        """Whether the OCSP URL has a host name in it, which nginx resolves only with a `resolver` of its own."""
        host = urlsplit(self.ocsp_url or "").hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return bool(host)
        return False


def example_name(allowed_names: Sequence[str]) -> str:
    """A name that a server with this policy issues for: `*.localhost` gives `demo.localhost`. Always a plain host name."""
    suffixes = (f"demo.{pattern[2:]}" for pattern in allowed_names if pattern.startswith("*."))
    exact = (pattern for pattern in allowed_names if not pattern.startswith("*."))
    for name in (*suffixes, *exact):
        if len(name) <= 253 and _HOST_NAME.match(name):
            return name
    return "demo.example"  # RFC 2606 §2: names nobody has


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPageModel:
    """Everything that the page shows.

    `allowed_names` and `allowed_networks` are the policy's patterns; `profiles` are names of profiles with their descriptions, the one
    for orders that ask for none first; `http_port` is the port where http-01 is checked; `demo` marks
    a server that runs under the demonstration policy; `external_account_required` and `terms_of_service` say what a new account needs;
    `roots_url` serves all trusted roots and `bundle_url` the issuers
    with their roots, both PEM. Raises ValueError for a URL that is not plain http or https, or a port out of range.
    """

    ca_name: str
    organization: str
    demo: bool
    version: str
    directory_url: str
    status_url: str
    roots_url: str
    bundle_url: str
    root: CertificateCard
    issuers: tuple[CertificateCard, ...]
    allowed_names: tuple[str, ...]
    allowed_networks: tuple[str, ...] = ()
    profiles: tuple[tuple[str, str], ...] = ()
    http_port: int = 80
    external_account_required: bool = False
    terms_of_service: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.http_port < 65536:
            raise ValueError(f"a port is 1 to 65535, not {self.http_port}")
        for url in (self.directory_url, self.status_url, self.roots_url, self.bundle_url):
            _require_url(url)

    @property
    def example_name(self) -> str:
        """A name that this server would issue for."""
        return example_name(self.allowed_names)

    @property
    def slug(self) -> str:
        """The CA's name as `[a-z0-9-]`, never empty and at most 40 long: files and Kubernetes objects are named after it."""
        return re.sub(r"[^a-z0-9]+", "-", self.ca_name.lower())[:40].strip("-") or "acmeca"

    @property
    def file_name(self) -> str:
        """The base name, without a suffix, under which the commands keep the root."""
        return f"{self.slug}-root"


FrontPageSource = Callable[[], FrontPageModel] | Callable[[], Awaitable[FrontPageModel]]


@dataclass(frozen=True, slots=True)
class _FrontPage:
    """What the two handlers need: where the model comes from, and the stylesheet as it was at start-up."""

    source: FrontPageSource
    stylesheet: bytes


def _format_date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _format_iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_FILTERS: Final[Mapping[str, Callable[..., str]]] = {"sh": shlex.quote, "date": _format_date, "iso": _format_iso}
_FRONT_PAGE: Final = web.AppKey("front_page", _FrontPage)
_TEMPLATES: Final = web.AppKey("front_page_templates", jinja2.Environment)


def build_certificate_card(
    certificate: x509.Certificate,
    *,
    pem_url: str,
    der_url: str,
    crl_url: str | None = None,
    ocsp_url: str | None = None,
) -> CertificateCard:
    """The card of a certificate; its subject as RFC 4514 §2.1 has it (the last part first), with a space after each comma."""
    return CertificateCard(
        subject=", ".join(part.rfc4514_string() for part in reversed(certificate.subject.rdns)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256_fingerprint=certificate.fingerprint(hashes.SHA256()),
        pem_url=pem_url,
        der_url=der_url,
        crl_url=crl_url,
        ocsp_url=ocsp_url,
    )


def add_front_page(app: web.Application, model: FrontPageSource) -> None:
    """Serve the page at `Paths.FRONT_PAGE` and its stylesheet, for GET and HEAD.

    `model` is called for each request, so that a new issuer shows without a restart. Raises FileNotFoundError or
    jinja2.TemplateError at start-up when the templates are missing or broken.
    """
    templates = resources.find("templates")
    environment = aiohttp_jinja2.setup(
        app,
        app_key=_TEMPLATES,
        default_helpers=False,
        filters=_FILTERS,
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        auto_reload=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.get_template("front_page.html")  # a broken template stops the start, not the first visitor
    app[_FRONT_PAGE] = _FrontPage(model, (templates / "style.css").read_bytes())
    app.router.add_get(Paths.FRONT_PAGE, _show_page)
    app.router.add_get(Paths.STYLESHEET, _show_stylesheet)


async def _show_page(request: web.Request) -> web.Response:
    made = request.app[_FRONT_PAGE].source()
    model = await made if inspect.isawaitable(made) else made
    context = {"page": model, "stylesheet": Paths.STYLESHEET}
    page = aiohttp_jinja2.render_string("front_page.html", request, context, app_key=_TEMPLATES)
    return build_page(request, page.encode(), content_type="text/html")


async def _show_stylesheet(request: web.Request) -> web.Response:
    return build_page(request, request.app[_FRONT_PAGE].stylesheet, content_type="text/css")


def _require_url(url: str) -> None:
    if not _URL.match(url):
        raise ValueError(f"a link on the front page is a plain http or https URL, not {url!r}")
