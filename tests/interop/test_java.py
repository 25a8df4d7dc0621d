"""Java as a relying party: its PKIX validator asks OCSP by GET and reads CRLs, and is stricter than most.

Rule 1: one run of Java answers all questions (a start takes seconds); each test reads its line.
"""

from pathlib import Path

import pytest

from tests.interop.conftest import RequireTool
from tests.interop.relying_parties import World
from tests.support.processes import run

pytestmark = pytest.mark.interop

SOURCE = Path(__file__).with_name("RevocationCheck.java")


@pytest.fixture(scope="module")
def answers(require_tool: RequireTool, world: World) -> dict[tuple[str, str], str]:
    """What Java says, by how it asked and whom it asked about."""
    java = require_tool("java", "default-jdk-headless")
    require_tool("javac", "default-jdk-headless")  # a source file is run by the compiler's module
    leaves = {"good": world.good, "other": world.other, "revoked": world.revoked}
    questions = {(how, kind): f"{how}:{leaf.certificate}" for how in ("ocsp", "crl") for kind, leaf in leaves.items()}
    options = ("-Dcom.sun.security.enableCRLDP=true", "-Djava.net.useSystemProxies=false", "-XX:TieredStopAtLevel=1")
    said = run([java, *options, SOURCE, world.ca.root_path, world.intermediate, *questions.values()])
    lines = said.stdout.splitlines()
    assert len(lines) == len(questions), said
    return {question: line.split(" ", 2)[2] for question, line in zip(questions, lines, strict=True)}


@pytest.mark.parametrize("how", ["ocsp", "crl"])
@pytest.mark.parametrize(("kind", "expected"), [("good", "good"), ("other", "good"), ("revoked", "revoked SUPERSEDED")])
def test_revocation_as_java_sees_it(answers: dict[tuple[str, str], str], how: str, kind: str, expected: str) -> None:
    """A chain that validates, with its status from OCSP (GET, a delegated responder) or from CRLs (the leaf's and the
    intermediate's), without a fallback from one to the other."""
    assert answers[how, kind] == expected
