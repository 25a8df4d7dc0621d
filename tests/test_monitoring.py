"""Alerts and metrics fit: what a rule or the guide names is what a real server exports, and every metric is explained.

Rule 1: nothing is taken from a list kept here; it is read from the rules, the guide and a scrape.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from acmeca.service.probes import FaultKind
from tests.support.metrics import parse_samples, value
from tests.support.processes import clean_environment
from tests.support.server import running_ca

REPOSITORY: Final = Path(__file__).parents[1]
GUIDE: Final = REPOSITORY / "docs" / "monitoring.md"
RULES: Final = REPOSITORY / "conf" / "acmeca.rules.yml"

_METRIC: Final = re.compile(r"\b(?:acmeca|process)_[a-z_]+")
_LABEL: Final = re.compile(r"([a-z]+)(?:=~|!=|!~|=)\"([^\"]*)\"")


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from group["rules"]


def scraped(text: str) -> dict[str, set[tuple[str, str]]]:
    """The names of all samples, each with the labels that it was seen with."""
    found: dict[str, set[tuple[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels.items())
    return found


async def test_what_is_named_is_exported() -> None:
    """Every metric of a rule or of the guide is there after one order, with the labels that are asked for."""
    async with running_ca() as ca:
        client = await ca.client()
        await client.issue("a.localhost")
        async with ca.session().get(f"{ca.admin_url}/metrics") as answer:
            found = scraped(await answer.text())
    for rule in rules():
        named = _METRIC.findall(rule["expr"])
        assert named or rule["expr"].startswith("up{"), rule["alert"]
        assert not [name for name in named if name not in found], rule["alert"]
        labels = {label for name in named for label, _ in found[name]}
        for label, _ in _LABEL.findall(rule["expr"]):
            assert label in labels | {"job"}, (rule["alert"], label)
        for text in rule["annotations"].values():
            for label in re.findall(r"\$labels\.([a-z]+)", text):
                assert label in labels | {"instance"}, (rule["alert"], label)
            assert not [name for name in _METRIC.findall(text) if name not in found and f"{name}_bucket" not in found]
    named = {name.removesuffix("_") for name in _METRIC.findall(GUIDE.read_text())}
    assert not {name for name in named if name not in found}
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in named | {"process_virtual_memory_bytes"}}
    families |= {
        re.sub(r"_(total|bucket|count|sum)$", "", name) for rule in rules() for name in _METRIC.findall(rule["expr"])
    }
    families |= {"process_start_time_seconds"}  # as every program has it
    exported = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in found}
    assert exported <= families, f"docs/monitoring.md does not say what to do with {sorted(exported - families)}"


def test_each_alert_says_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    guide = GUIDE.read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 60, rule["alert"]
        assert f"`{rule['alert']}`" in guide, rule["alert"]
    assert {name.strip("`") for name in re.findall(r"`Acmeca[A-Za-z]+`", guide)} == set(names)


def test_each_fault_is_in_the_guide() -> None:
    begins = {kind: kind.value for kind in FaultKind} | {FaultKind.RESPONDER: "ocsp responder"}
    for begin in begins.values():
        assert re.search(rf"^\| `{begin}\b", GUIDE.read_text(), re.MULTILINE), begin


def test_promtool() -> None:
    """The expressions are PromQL: Prometheus's own tool reads them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "no promtool on this machine: apt-get install --no-install-recommends prometheus"
        if os.environ.get("ACMECA_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list(rules()))} rules found" in done.stdout


_WORKER: Final = """
import sys
from acmeca.acme.objects import ChallengeType
from acmeca.service.condition import Figures
from acmeca.service.probes import FaultKind
from acmeca.web.metrics import Metrics
metrics = Metrics()
metrics.requested("/acme/new-order", 201, 0.003)
metrics.problem_sent(b'{"type": "urn:ietf:params:acme:error:badNonce"}')
metrics.ocsp_answered("good", kept=True)
metrics.validated(ChallengeType.HTTP_01, "valid", 0.1)
metrics.issued("server")
metrics.finalized(0.01)
metrics.revoked(1)
metrics.orders_closed("valid")
metrics.committed(writes=3, seconds=0.002)
metrics.gather(connections={"acme": (5, 100)}, writes_waiting=7)
print("counted", flush=True)
sys.stdin.readline()
print(metrics.render(Figures(usage={}, faults={kind: 0 for kind in FaultKind}), "")[0].decode())
"""


def test_several_workers(tmp_path: Path) -> None:
    """Whichever worker is scraped tells for all of them; what a live worker has under way goes with it."""
    environment = clean_environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            env=environment,
            cwd=REPOSITORY,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "counted\n"
        text, _ = workers[0].communicate("\n", timeout=60)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    samples = parse_samples(text)
    assert value(samples, "acmeca_acme_request_duration_seconds_count", resource="newOrder", status="2xx") == 2
    assert value(samples, "acmeca_acme_problems_total", type="badNonce") == 2
    assert value(samples, "acmeca_ocsp_answers_total", status="good", source="kept") == 2
    assert value(samples, "acmeca_validation_duration_seconds_count", type="http-01", outcome="valid") == 2
    assert value(samples, "acmeca_certificates_issued_total", profile="server") == 2
    assert value(samples, "acmeca_issuance_duration_seconds_count") == 2
    assert value(samples, "acmeca_certificates_revoked_total", reason="keyCompromise") == 2
    assert value(samples, "acmeca_orders_closed_total", status="valid") == 2
    assert value(samples, "acmeca_database_commit_writes_sum") == 6
    assert value(samples, "acmeca_connections", listener="acme") == 10
    assert value(samples, "acmeca_connections_limit", listener="acme") == 200
    assert value(samples, "acmeca_database_writes_waiting") == 14
    assert value(samples, "process_open_fds") >= 2 * 3
    assert value(samples, "process_start_time_seconds") > 1_700_000_000
