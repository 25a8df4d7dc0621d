"""The house stands as it is drawn: imports point down, every route is exercised, every problem type is expected by a test.

Rule 1: nothing is taken from a list kept here: what there is is read from the code, so that what is added is asked about.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from acmeca import app
from acmeca.acme.problem import ProblemType
from acmeca.service.services import Services
from acmeca.urls import Paths, Urls
from tests.support.acme_client import certificate_key, renewal_identifier
from tests.support.jose import new_key
from tests.support.server import running_ca

REPOSITORY: Final = Path(__file__).parents[1]
PACKAGE: Final = REPOSITORY / "acmeca"
TESTS: Final = REPOSITORY / "tests"

PATHS: Final = {name: value for name, value in vars(Paths).items() if name.isupper()}


def modules(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_by(tree: ast.Module) -> set[str]:
    """The modules that a module imports, by their full names."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


class TestImports:
    def test_contracts(self) -> None:
        """DESIGN §1: "Imports point down, and a test proves it" (the contracts stand in pyproject.toml)."""
        program = Path(sys.executable).with_name("lint-imports")
        done = subprocess.run([program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " 0 broken" in done.stdout
        assert " 0 kept" not in done.stdout

    def test_josepy(self) -> None:
        """DESIGN §1: josepy is imported in one place, which checks what it is given."""
        users = {
            path for path, tree in modules(PACKAGE) if any(name.startswith("josepy") for name in imported_by(tree))
        }
        assert users == {PACKAGE / "acme" / "jwk.py"}

    def test_prometheus(self) -> None:
        """Rule of web/metrics.py: it is "the one module that knows prometheus_client"."""
        users = {path for path, tree in modules(PACKAGE) if any("prometheus" in name for name in imported_by(tree))}
        assert users == {PACKAGE / "web" / "metrics.py"}

    def test_no_layer_imports_the_tests(self) -> None:
        for path, tree in modules(PACKAGE):
            assert not [name for name in imported_by(tree) if name.split(".")[0] in {"tests", "pytest"}], path

    @pytest.mark.parametrize("module", ["jose", "acme_client"])
    def test_the_outside_client_knows_nothing_of_us(self, module: str) -> None:
        """Rule 1 of tests/support/jose.py: a mistake in acmeca cannot hide in its own tests."""
        tree = ast.parse((TESTS / "support" / f"{module}.py").read_text(encoding="utf-8"))
        assert not [name for name in imported_by(tree) if name.startswith("acmeca")]

    def test_the_clock_is_a_parameter(self) -> None:
        """STYLE 10: "Time and randomness are parameters": the real ones are named in few places."""
        readers = set()
        for path, tree in modules(PACKAGE):
            for node in ast.walk(tree):
                is_clock = isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "urandom"}
                if is_clock and isinstance(node.value, ast.Name) and node.value.id in {"datetime", "date", "os"}:
                    readers.add(str(path.relative_to(PACKAGE)))
        allowed = {"app/stores.py"}
        assert {path for path in readers if not path.startswith("cli/")} == allowed

    def test_every_module_opens_with_what_it_is(self) -> None:
        """STYLE 1: a module opens with what it is."""
        for path, tree in modules(PACKAGE):
            assert ast.get_docstring(tree), path


class TestRoutes:
    def test_urls_and_paths_agree(self) -> None:
        """Rule 1 of urls.py: routes are registered from `Paths`, links are made by `Urls`: they are about the same."""
        urls = Urls(base="https://b", status="http://s")
        assert urls.directory == "https://b" + Paths.DIRECTORY
        assert urls.order("{order_id}") == "https://b" + Paths.ORDER
        assert urls.finalize("{order_id}") == "https://b" + Paths.FINALIZE
        assert urls.account("{account_id}") == "https://b" + Paths.ACCOUNT
        assert urls.account_orders("{account_id}", None) == "https://b" + Paths.ACCOUNT_ORDERS
        assert urls.authorization("{authorization_id}") == "https://b" + Paths.AUTHORIZATION
        assert urls.challenge("{authorization_id}", "{challenge_type}") == "https://b" + Paths.CHALLENGE
        assert urls.certificate("{certificate_id}") == "https://b" + Paths.CERTIFICATE
        assert urls.certificate("{certificate_id}", "{chain_id}") == "https://b" + Paths.ALTERNATE
        assert urls.problem("badCSR") == "https://b" + Paths.PROBLEMS + "#badCSR"
        assert urls.new_nonce == "https://b" + Paths.NEW_NONCE
        assert urls.new_account == "https://b" + Paths.NEW_ACCOUNT
        assert urls.new_order == "https://b" + Paths.NEW_ORDER
        assert urls.revoke_cert == "https://b" + Paths.REVOKE_CERT
        assert urls.new_authz == "https://b" + Paths.NEW_AUTHZ
        assert urls.key_change == "https://b" + Paths.KEY_CHANGE
        assert urls.renewal_info + "/{unique_identifier}" == "https://b" + Paths.RENEWAL_INFO
        assert urls.ocsp("{issuer_id}") == "http://s" + Paths.OCSP
        assert urls.crl("{issuer_id}") == "http://s" + Paths.CRL
        assert urls.issuer_der("{issuer_id}") == "http://s" + Paths.ISSUER_DER
        assert urls.issuer_pem("{issuer_id}") == "http://s" + Paths.ISSUER_PEM
        assert urls.bundle == "http://s" + Paths.BUNDLE
        assert urls.roots == "http://s" + Paths.ROOTS

    def test_no_path_is_spelt_elsewhere(self) -> None:
        """Rule 1 of urls.py: "no other module spells a path"."""
        prefixes = ("/acme/", "/ocsp/", "/crl/", "/issuer/")
        for path, tree in modules(PACKAGE):
            if path.name == "urls.py":
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(prefixes):
                    # The one reading of a raw path (Rule 1 of web/status.py) has to know where the issuer's id stands.
                    assert (path.name, node.value) == ("status.py", "/ocsp/"), (path, node.value)

    async def test_every_path_is_routed_and_exercised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A whole walk touches every route there is, and every entry of `Paths` is one of them."""
        seen: Counter[tuple[str, str]] = Counter()
        routed: set[tuple[str, str]] = set()

        async def note(request: web.Request, response: web.StreamResponse) -> None:
            resource = request.match_info.route.resource
            if resource is not None and response.status < 400:
                seen[request.method, resource.canonical] += 1

        def noted(application: web.Application) -> web.Application:
            application.on_response_prepare.append(note)
            for route in application.router.routes():
                if route.resource is not None:
                    routed.add((route.method, route.resource.canonical))
            return application

        for builder in ("build_acme_app", "build_status_app", "build_operations_app"):
            build = getattr(app.listeners, builder)
            monkeypatch.setattr(app.listeners, builder, lambda opened, build=build: noted(build(opened)))

        async with running_ca() as ca:
            client, party, session = await ca.client(), ca.relying_party(), ca.session()
            issued = await client.issue("a.localhost")
            await client.post(issued.order.url)
            await client.post((await client.post(issued.order.certificate)).links("alternate")[0])
            await client.post((await client.post(client.account_url)).json["orders"])
            await client.post(ca.directory_url)
            await client.post(client.directory["newNonce"])
            await client.get(client.directory["newNonce"])
            await party.get(party.request(issued.serial))
            await party.get(party.request(issued.serial), method="HEAD")
            await party.post(party.request(issued.serial))
            (await client.revoke(issued.der, key=certificate_key(issued))).ok()
            (await client.change_key(new_key())).ok()
            identifier = {"type": "dns", "value": "b.localhost"}
            (await client.post(client.directory["newAuthz"], {"identifier": identifier})).ok(201)
            status = ca.urls.status
            fetched = [f"{client.directory['renewalInfo']}/{renewal_identifier(issued.leaf)}"]
            fetched += [ca.issuer.crl_url, ca.issuer.issuer_url, ca.urls.issuer_pem(ca.issuer.id), ca.urls.bundle]
            fetched += [ca.urls.roots, status + Paths.HEALTH_LIVE, status + Paths.HEALTH_READY]
            fetched.append(ca.urls.base + Paths.PROBLEMS)
            fetched += [base + path for base in (ca.urls.base, status) for path in (Paths.FRONT_PAGE, Paths.STYLESHEET)]
            fetched += [ca.admin_url + path for path in (Paths.METRICS, Paths.HEALTH_LIVE, Paths.HEALTH_READY)]
            for url in fetched:
                for method in ("GET", "HEAD"):
                    async with session.request(method, url) as answer:
                        assert answer.status == 200, url
            async with session.head(ca.directory_url) as answer:
                assert answer.status == 200

        canonical = {path for _, path in routed}
        for name, value in PATHS.items():
            assert value in canonical, f"Paths.{name} is not routed"
        missed = routed - set(seen)
        assert not missed, f"no test walks {sorted(missed)}"


def attributes_of(tree: ast.Module, owner: str) -> set[str]:
    """The members of a class that a module names as `owner.MEMBER`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner
    }


def asserted_types(tree: ast.Module) -> set[str]:
    """The problem types that a test expects: as the argument of `refused`, in an assertion, or as a test's parameter.

    A type in a comment or a docstring does not count.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        expects = (
            isinstance(node, ast.Assert)
            or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refused")
            or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "parametrize")
        )
        if not expects:
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found.add(part.value.rpartition(":")[2])
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "ProblemType":
                found.add(ProblemType[part.attr].value)
    return found


class TestProblems:
    def test_every_type_is_sent(self) -> None:
        """Rule 3 of acme/problem.py: "only types that acmeca really sends are listed here"."""
        used: set[str] = set()
        for path, tree in modules(PACKAGE):
            if path.name != "problem.py":
                used |= attributes_of(tree, "ProblemType")
        unused = {type_.name for type_ in ProblemType} - used - {"COMPOUND"}  # `join_problems` makes that one itself
        assert not unused

    def test_every_type_is_expected(self) -> None:
        """Each type is what some test of a refusal asks for."""
        expected: set[str] = set()
        for path, tree in modules(TESTS):
            if path.name not in {"test_architecture.py", "test_problem.py"} and "support" not in path.parts:
                expected |= asserted_types(tree)
        missing = {type_.value for type_ in ProblemType} - expected
        assert not missing

    def test_only_one_place_renders(self) -> None:
        """STYLE, errors: "web/middleware.py alone turns an exception into a response"."""
        for path, tree in modules(PACKAGE):
            spelt = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and node.value == "application/problem+json"
            ]
            assert not spelt or path == PACKAGE / "web" / "middleware.py", path


def test_services_are_few() -> None:
    """DESIGN: no one class through which everything reaches everything; what is added here is thought about."""
    assert len(Services.__dataclass_fields__) <= 14
