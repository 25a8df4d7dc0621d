"""docs/conformance.md is what the tests of tests/rfc show; their quotations are the standards' words."""

import ast
from pathlib import Path

import pytest

from tests.support import conformance
from tests.support.conformance import ROOT, Clause, Document, Quotation, quotations, quoted, read_conformance

SHOWN = read_conformance()
CLAUSES = [(document, clause) for document in SHOWN.documents for clause in document.clauses]


def test_the_page_is_up_to_date() -> None:
    assert conformance.PAGE.read_text(encoding="utf-8") == conformance.render(SHOWN), "make conformance"


def test_every_must_is_shown_or_a_reason_is_given() -> None:
    open_ = [
        f"{document.name} §{clause.section}: {clause.text}"
        for document, clause in CLAUSES
        if clause.binds == "server" and clause.is_strict and not SHOWN.is_answered(clause)
    ]
    assert open_ == []


def test_a_reason_is_given_only_where_no_test_shows_it() -> None:
    stale = [
        f"{document.name} §{clause.section}: {clause.text}"
        for document, clause in CLAUSES
        if clause.not_shown and SHOWN.shown[clause]
    ]
    assert stale == [], "its `not_shown` in tests/rfc/clauses has had its day"


def test_quotations_are_the_standards_words() -> None:
    assert SHOWN.misquotations == []


def test_divergences_are_told() -> None:
    told = conformance.DIVERGENCES.read_text(encoding="utf-8")
    named = {clause.divergence for _, clause in CLAUSES if clause.divergence is not None}
    assert {text for text in named if text not in told} == set()


def test_named_tests_exist() -> None:
    for name in {name for _, clause in CLAUSES for name in clause.tests}:
        path, *parts = name.split("::")
        node: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for part in parts:
            (node,) = [
                inner
                for inner in ast.iter_child_nodes(node)
                if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and inner.name == part
            ]


def test_each_sentence_has_a_requirement_word_and_stands_once() -> None:
    assert [clause.text for _, clause in CLAUSES if not clause.levels] == []
    assert len({(document.name, clause) for document, clause in CLAUSES}) == len(CLAUSES)


def clause(text: str, section: str = "1") -> Clause:
    return Clause(document="RFC 1", section=section, text=text)


class TestReading:
    """The generator itself: what is a quotation, and of what."""

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ('a "b" c', ["a ", "b", " c"]),
            ('"b "c" d"', ["", 'b "c" d', ""]),
            ('it "is not "invalid"".', ["it ", 'is not "invalid"', "."]),
            ('set to the empty string ("")', ["set to the empty string (", "", ")"]),
            ("none", ["none"]),
        ],
    )
    def test_outermost_quotation_marks(self, text: str, parts: list[str]) -> None:
        assert list(quoted(text)) == parts

    def test_where_a_quotation_stands(self) -> None:
        text = 'RFC 8738 §7: "It MUST NOT be used." RULES §3: "never". §7.5.2: "As [RFC1123] has it … they MUST".'
        found = list(quotations(text, document="RFC 8555", section=""))
        assert [(item.document, item.section, item.text) for item in found] == [
            ("RFC 8738", "7", "It MUST NOT be used."),
            ("RULES", "3", "never"),
            ("RFC 8555", "7.5.2", "As [RFC1123] has it"),
            ("RFC 8555", "7.5.2", "they MUST"),
        ]

    @pytest.mark.parametrize(
        ("text", "section", "is_of"),
        [
            ("the server MUST say so", "", True),
            ("The server MUST say so [RFC1], aloud", "1", True),
            ("MUST say so, aloud (see Section 2)", "1", True),
            ("the server MUST say so", "2", False),
            ("the server MUST say it", "1", False),
            ("the server must say", "1", False),
            ("when a client asks for it", "1", True),
            ("a client asks", "1", False),
            ("the server MUST", "1", False),
        ],
    )
    def test_a_quotation_of_a_sentence(self, text: str, section: str, *, is_of: bool) -> None:
        sentence = clause("When a client asks for it, the server MUST say so, aloud.")
        assert Quotation("RFC 1", section, text).is_of(sentence) is is_of

    def test_a_sentence_that_no_test_shows_is_open(self, tmp_path: Path) -> None:
        sentence = clause("The server MUST say so.")
        document = Document(
            name="RFC 1", title="Saying so", url="https://rfc.example/1", checked="", clauses=(sentence,)
        )
        page = conformance.render(conformance.Conformance([document]))
        assert "| 1 | MUST | The server MUST say so. | open |" in page
        assert "0 of 1 | - | 0 | 1 | 0 |" in page
