"""The part of Markdown that pages of ours are written in, to HTML.

Rule 1: what is not of this part raises ValueError, so that a page never looks other than it was meant; a test holds our documents
to it. There are a title, sections, paragraphs, lists of one level, indented code; `code`, **strong** and links within a line.
Rule 2: text is escaped; no HTML is taken over. Links lead to https, or to a section of the same page.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_INLINE: Final = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*`]+)\*\*|\[(?P<text>[^\]`]+)\]\((?P<target>https://[^()\s]+|#[A-Za-z0-9-]+)\)"
)
_LEFT_OVER: Final = re.compile(r"[`*\[\]<>_|\\]")
_ANCHOR: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
_OTHER_BLOCK: Final = re.compile(r"#|>|[*+] |[0-9]+[.)] |\||---|```")


@dataclass(frozen=True, slots=True)
class Section:
    """What stands below a `##`; the heading is its anchor too."""

    anchor: str
    html: str


@dataclass(frozen=True, slots=True)
class Document:
    """A page: its title (plain text), what stands before the first section, and the sections in their order."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def parse_document(text: str) -> Document:
    """Raises ValueError for what is not of our part of Markdown (rule 1)."""
    first, *others = re.split(r"^## ", text, flags=re.MULTILINE)
    heading, _, lead = first.partition("\n")
    if not heading.startswith("# "):
        raise ValueError("a page begins with its title, '# …'")
    sections = []
    for part in others:
        anchor, _, body = part.partition("\n")
        if not _ANCHOR.match(anchor):
            raise ValueError(f"{anchor!r} is no anchor: letters, digits and - may stand in it")
        sections.append(Section(anchor, _render_blocks(body)))
    if len({section.anchor for section in sections}) < len(sections):
        raise ValueError("two sections have the same heading")
    return Document(heading.removeprefix("# "), _render_blocks(lead), tuple(sections))


def _render_blocks(text: str) -> str:
    return "\n".join(_render_block(block) for block in _blocks(text))


def _blocks(text: str) -> Iterator[list[str]]:
    """Lines that stand together, between blank ones."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if block.strip():
            yield block.split("\n")


def _render_block(lines: Sequence[str]) -> str:
    if all(line.startswith("    ") for line in lines):
        code = "\n".join(line[4:] for line in lines)
        return f'<figure class="block"><pre><code>{html.escape(code)}</code></pre></figure>'
    if lines[0].startswith("- "):
        items = "".join(f"<li>{_render_line(item)}</li>\n" for item in _items(lines))
        return f"<ul>\n{items}</ul>"
    for line in lines:
        if _OTHER_BLOCK.match(line) or line.startswith((" ", "- ")):
            raise ValueError(f"{line!r} begins like something that pages of ours do not have")
    return f"<p>{_render_line(' '.join(lines))}</p>"


def _items(lines: Sequence[str]) -> list[str]:
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line[2:])
        elif re.match(r"  \S", line):
            items[-1] += f" {line[2:]}"
        else:
            raise ValueError(f"{line!r} is neither an item of a list nor goes on with one")
    return items


def _render_line(text: str) -> str:
    parts = []
    position = 0
    for match in _INLINE.finditer(text):
        parts.append(_plain(text[position : match.start()]))
        if match["code"]:
            parts.append(f"<code>{html.escape(match['code'])}</code>")
        elif match["strong"]:
            parts.append(f"<strong>{_plain(match['strong'])}</strong>")
        else:
            parts.append(f'<a href="{html.escape(match["target"])}">{_plain(match["text"])}</a>')
        position = match.end()
    parts.append(_plain(text[position:]))
    return "".join(parts)


def _plain(text: str) -> str:
    left = _LEFT_OVER.search(text)
    if left is not None:
        raise ValueError(f"{left[0]!r} in {text!r} is none of the marks that pages of ours have; write it as `code`")
    return html.escape(text)
