"""The part of Markdown that pages of ours are written in: what it becomes, and that nothing else does (rules of web/markdown.py)."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeca.web.markdown import Section, parse_document

PAGE = """\
# A title & more

What stands
before it.

## first

One `acmeca <x>` and **strong** words, [a link](https://example.org/?a=1&b=2), [a section](#second).

- an item
  that goes on
- another

    $ acmeca list --name '*.x'
    a < b

## second

The end.
"""


def test_a_page() -> None:
    page = parse_document(PAGE)
    assert page.title == "A title & more"
    assert page.lead == "<p>What stands before it.</p>"
    assert page.sections == (
        Section(
            "first",
            "<p>One <code>acmeca &lt;x&gt;</code> and <strong>strong</strong> words,"
            ' <a href="https://example.org/?a=1&amp;b=2">a link</a>, <a href="#second">a section</a>.</p>\n'
            "<ul>\n<li>an item that goes on</li>\n<li>another</li>\n</ul>\n"
            '<figure class="block"><pre><code>$ acmeca list --name &#x27;*.x&#x27;\na &lt; b</code></pre></figure>',
        ),
        Section("second", "<p>The end.</p>"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No title",
        "## section\n\nwithout a title",
        "# t\n\n## two words\n\nx",
        "# t\n\n## \n\nx",
        "# t\n\n## a\n\nx\n\n## a\n\ny",
        "# t\n\n### deeper",
        "# t\n\n> quoted",
        "# t\n\n1. numbered",
        "# t\n\n* starred",
        "# t\n\n+ plus",
        "# t\n\n| a | b |",
        "# t\n\n```\ncode\n```",
        "# t\n\n---",
        "# t\n\na <b>bold</b> word",
        "# t\n\nan `open mark",
        "# t\n\nan **open mark",
        "# t\n\n*emphasis*",
        "# t\n\n_emphasis_",
        "# t\n\n[relative](limits.md)",
        "# t\n\n[plain](http://example.org)",
        "# t\n\n[script](javascript:alert)",
        '# t\n\n[breaks out](https://example.org/" onclick="x)',
        "# t\n\na\\\\ backslash",
        "# t\n\n- item\nno indent",
        "# t\n\n- item\n    - nested",
        "# t\n\ntext\n- item",
        "# t\n\n  two blanks",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Rule 1: a page never looks other than it was meant."""
    with pytest.raises(ValueError):
        parse_document(text)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"p", "ul", "li", "code", "strong", "a", "figure", "pre"}
        assert {name for name, _ in attrs} <= {"href", "class"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@given(st.text(alphabet="ab <>&\"'`*[]()#-\n.:/hts", max_size=80))
def test_no_text_becomes_other_tags(text: str) -> None:
    """Rule 2, whatever is written."""
    try:
        page = parse_document(f"# t\n\n{text}")
    except ValueError:
        return
    tags = _Tags()
    for part in (page.lead, *(section.html for section in page.sections)):
        tags.feed(part)
    tags.close()
    assert tags.open == []
