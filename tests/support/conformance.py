"""docs/conformance.md: each sentence of a standard that binds a CA, and the tests that show it. `make conformance` writes it.

1. The sentences are in tests/rfc/clauses/*.toml, one file per document; where one was corrected, it was corrected there.
2. A test of tests/rfc shows a sentence if its docstring quotes it, or its class's, which stands for all of the class: in
   quotation marks or bare, with "…" for what is left out.
   Quotations are compared without case, inner quotation marks, references in brackets and "(see Section …)".
3. A quotation is looked for in the document and the section that stand before it ("RFC 8738 §7: …"); without a document, in
   that of the class or the module; without a section, in all of the document.
4. A part of a quotation that has a requirement word has to be found and to have four words, or the quotation is wrong
   (`misquotations`). Parts without one, such as a step of a list, count for a sentence if they have five and stand in it.
5. A sentence that no test quotes names the tests that show it elsewhere (`tests`), or says why there are none
   (`not_shown`). What we do otherwise quotes docs/divergences.md (`divergence`).
"""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "conformance.md"
DIVERGENCES: Final = ROOT / "docs" / "divergences.md"
_CLAUSES: Final = ROOT / "tests" / "rfc" / "clauses"

_LEVEL: Final = re.compile(
    r"\b(MUST NOT|MUST|SHALL NOT|SHALL|REQUIRED|SHOULD NOT|SHOULD|NOT RECOMMENDED|RECOMMENDED)\b"
)
_STRICT: Final = ("MUST", "SHALL", "REQUIRED")
_CITATION: Final = re.compile(
    r"(?:(?P<document>RFC \d+|RULES|draft-[a-z-]+-\d\d),?\s*)?§(?P<section>\d+(?:\.\d+)*)|(?P<alone>RFC \d+|draft-[a-z-]+-\d\d)"
)
_LEFT_OUT: Final = re.compile(r"…|\.\.\.|(?<=[.:;])\s+(?=[A-Z])|\[(?!RFC|FIPS|X\.)[^\]]*\]")
_NOISE: Final = re.compile(
    r"\[(?:RFC ?|FIPS|X\.)[\d-]+\]|\(see [^)]*\)|urn:ietf:params:acme:error:|[\"'`]", re.IGNORECASE
)
_MAX_CLAUSE: Final = 320
_MAX_TESTS: Final = 3
_MIN_NORMATIVE_WORDS: Final = 4
_MIN_WORDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Clause:
    """A sentence with a requirement word. `binds` is "server", or who else has to keep it."""

    document: str
    section: str
    text: str
    binds: str = "server"
    tests: tuple[str, ...] = ()
    not_shown: str | None = None
    divergence: str | None = None

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_LEVEL.findall(self.text)))

    @property
    def is_strict(self) -> bool:
        """Whether it counts as a MUST: a sentence with both words does."""
        return any(level.startswith(_STRICT) for level in self.levels)


@dataclass(frozen=True, kw_only=True)
class Document:
    name: str
    title: str
    url: str
    checked: str
    clauses: tuple[Clause, ...]

    @property
    def binding(self) -> list[Clause]:
        return [clause for clause in self.clauses if clause.binds == "server"]


@dataclass(frozen=True)
class Quotation:
    """A part of a docstring that may be out of a standard, between two omissions. `section` is "" where none was named."""

    document: str
    section: str
    text: str

    @property
    def is_normative(self) -> bool:
        return _LEVEL.search(self.text) is not None

    def is_of(self, clause: Clause) -> bool:
        if self.section not in {"", clause.section}:
            return False
        ours, theirs = plain(self.text), plain(clause.text)
        if len(ours.split()) < (_MIN_NORMATIVE_WORDS if self.is_normative else _MIN_WORDS):
            return False
        return ours in theirs or (self.is_normative and theirs in ours)


@dataclass(frozen=True)
class Test:
    """A test or a class of tests, as `file::name`."""

    name: str
    quotations: tuple[Quotation, ...]


@dataclass
class Conformance:
    """The documents, and which tests show which of their sentences."""

    documents: Sequence[Document]
    shown: dict[Clause, list[str]] = field(default_factory=lambda: defaultdict(list))
    misquotations: list[str] = field(default_factory=list)

    def is_answered(self, clause: Clause) -> bool:
        """Whether a test shows it, or the catalogue says why none does."""
        return bool(self.shown[clause] or clause.not_shown or clause.divergence)


@cache
def plain(text: str) -> str:
    """What is compared of a quotation and of a sentence."""
    words = " ".join(_NOISE.sub("", text).casefold().split())
    return re.sub(r" (?=[.,:;])", "", words).strip(" .,:;")


def read_document(path: Path) -> Document:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    clauses = tuple(
        Clause(
            document=content["name"],
            **{name: tuple(value) if name == "tests" else value for name, value in clause.items()},
        )
        for clause in content.pop("clause")
    )
    return Document(clauses=clauses, **content)


def read_documents() -> list[Document]:
    """Every document of the catalogue, RFC 8555 first."""
    documents = [read_document(path) for path in sorted(_CLAUSES.glob("*.toml"))]
    return sorted(documents, key=lambda document: (not document.name.startswith("RFC"), document.name))


def quoted(text: str) -> Iterator[str]:
    """`text` cut at its outermost quotation marks: what they enclose and what is between them. Inner ones stay."""
    depth, start = 0, 0
    for place, mark in enumerate(text):
        if mark != '"':
            continue
        before, after = text[place - 1 : place] or " ", text[place + 1 : place + 2] or " "
        opens = before in ' ([\n"' and after not in " .,:;)]\n" and not (depth and before == '"' and after == '"')
        if opens:
            depth += 1
        if depth == 1:
            yield text[start:place]
            start = place + 1
        if not opens:
            depth = max(depth - 1, 0)
    yield text[start:]


def quotations(docstring: str, *, document: str, section: str) -> Iterator[Quotation]:
    """The parts of a docstring with where they are said to stand; `document` and `section` where it names none."""
    text = " ".join(docstring.split())
    citations = list(_CITATION.finditer(text))
    ends = [citation.start() for citation in citations[1:]] + [len(text)]
    parts = [(document, section, text[: citations[0].start()] if citations else text)]
    for citation, end in zip(citations, ends, strict=bool(citations)):
        if citation["alone"] and not text[citation.end() :].startswith(":"):
            # "[RFC1123]" or "as RFC 2818 has it": no place, but a part of the text.
            where = parts[-1][:2]
        else:
            where = (citation["document"] or citation["alone"] or document, citation["section"] or "")
        parts.append((*where, text[citation.end() : end]))
    for where, section_, part in parts:
        for passage in quoted(part):
            for piece in _LEFT_OUT.split(passage):
                if plain(piece):
                    yield Quotation(where, section_, piece.strip(" :,;"))


def _named(docstring: str | None, fallback: str) -> str:
    citation = re.search(r"RFC \d+|draft-[a-z-]+-\d\d", docstring or "")
    return citation.group() if citation else fallback


def read_tests(path: Path) -> Iterator[Test]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    default = _named(ast.get_docstring(module), "")

    def tests(body: Sequence[ast.stmt], prefix: str, document: str, section: str) -> Iterator[Test]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                number = re.search(r"Section(\d+(?:_\d+)+)$", node.name)
                named = re.search(r"Rfc(\d{4})", node.name)
                inner = _named(ast.get_docstring(node), f"RFC {named[1]}" if named else document)
                place = number[1].replace("_", ".") if number else ""
                name = f"{prefix}::{node.name}"
                yield Test(name, tuple(quotations(ast.get_docstring(node) or "", document=inner, section=place)))
                yield from tests(node.body, name, inner, place)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found = quotations(ast.get_docstring(node) or "", document=document, section=section)
                yield Test(f"{prefix}::{node.name}", tuple(found))

    yield from tests(module.body, path.name, default, "")


def read_conformance() -> Conformance:
    conformance = Conformance(read_documents())
    by_name: Mapping[str, Document] = {document.name: document for document in conformance.documents}
    for path in sorted((ROOT / "tests" / "rfc").glob("test_*.py")):
        for test in read_tests(path):
            for quotation in test.quotations:
                document = by_name.get(quotation.document)
                if document is None:
                    continue
                clauses = [clause for clause in document.clauses if quotation.is_of(clause)]
                for clause in clauses:
                    if test.name not in conformance.shown[clause]:
                        conformance.shown[clause].append(test.name)
                if quotation.is_normative and not clauses:
                    conformance.misquotations.append(
                        f"{test.name}: {quotation.document} §{quotation.section}: {quotation.text}"
                    )
    for document in conformance.documents:
        for clause in document.clauses:
            conformance.shown[clause].extend(clause.tests)
    return conformance


def _shortened(text: str) -> str:
    if len(text) <= _MAX_CLAUSE:
        return text
    word = _LEVEL.search(text)
    start = max(0, word.start() - _MAX_CLAUSE // 2) if word else 0
    if start:
        start = text.index(" ", start) + 1
    cut = text[start : start + _MAX_CLAUSE]
    end = len(cut) if start + len(cut) == len(text) else cut.rindex(" ")
    return ("… " if start else "") + cut[:end] + ("" if start + end == len(text) else " …")


def _escaped(text: str) -> str:
    return re.sub(r"([|*<\\])", r"\\\1", text)


def _evidence(clause: Clause, tests: Sequence[str]) -> str:
    said = [f"`{test.removeprefix('tests/rfc/').removeprefix('tests/')}`" for test in tests[:_MAX_TESTS]]
    if len(tests) > _MAX_TESTS:
        said.append(f"{len(tests) - _MAX_TESTS} more")
    if clause.divergence is not None:
        said.append(f"[we differ](divergences.md): {clause.divergence}")
    if clause.not_shown is not None:
        said.append(f"no test: {clause.not_shown}")
    return "<br>".join(said) or "open"


def _ratio(clauses: Sequence[Clause], shown: Mapping[Clause, Any]) -> str:
    return f"{sum(bool(shown[clause]) for clause in clauses)} of {len(clauses)}" if clauses else "-"


def render(conformance: Conformance) -> str:
    """The page."""
    lines = [
        "# What the standards ask of a CA, and the tests that show it",
        "",
        "Generated by `make conformance` from [tests/rfc](../tests/rfc) and its catalogue of sentences; a test fails when it is out",
        "of date. A sentence counts as shown when a test quotes it. Where we read a standard differently: [divergences](divergences.md).",
        "RFC 5280, 6960, 7515 and 9654 have tests there, and no catalogue yet.",
        "",
        "| document | MUST, shown | SHOULD, shown | without a test, for a reason | open | for others than the CA |",
        "|---|---|---|---|---|---|",
    ]
    shown = conformance.shown
    for document in conformance.documents:
        strict = [clause for clause in document.binding if clause.is_strict]
        others = [clause for clause in document.binding if not clause.is_strict]
        silent = [clause for clause in document.binding if not shown[clause]]
        reasoned = [clause for clause in silent if conformance.is_answered(clause)]
        cells = (
            f"[{document.name}]({document.url}), {document.title}",
            _ratio(strict, shown),
            _ratio(others, shown),
            str(len(reasoned)),
            str(len(silent) - len(reasoned)),
            str(len(document.clauses) - len(document.binding)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for document in conformance.documents:
        lines += [
            "",
            f"## {document.name}, {document.title}",
            "",
            f"Its sentences were checked {document.checked}.",
            "",
        ]
        lines += ["| § | level | sentence | shown by |", "|---|---|---|---|"]
        for clause in document.binding:
            cells = (
                clause.section,
                ", ".join(clause.levels),
                _escaped(_shortened(clause.text)),
                _evidence(clause, shown[clause]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(render(read_conformance()), encoding="utf-8")


if __name__ == "__main__":
    main()
