"""The Markdown of this project's documents as HTML: headings, paragraphs, lists, tables, code, links."""

import html
import re
from collections.abc import Callable, Iterator

Resolve = Callable[[str], str | None]  # a link's target as it is written to its address, or None for none

_CODE = re.compile(r"`([^`]+)`")
_INLINE = (
    (re.compile(r"\*\*(?=[^\s\d])(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w*])\*(\S[^*]*)\*(?!\w)"), r"<em>\1</em>"),
)
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"(#+) (.*)")
_RULE = re.compile(r"\|[-:| ]+\|")


def to_html(text: str, resolve: Resolve) -> str:
    """A document's HTML. What has no address in `resolve` becomes its words."""
    return "\n".join(_blocks(text.splitlines(), resolve))


def anchor(heading: str) -> str:
    """The name by which links find a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _blocks(lines: list[str], resolve: Resolve) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
            code = html.escape("\n".join(lines[at + 1 : end]))
            yield f'<pre tabindex="0"><code>{code}</code></pre>'
            at = end + 1
        elif heading := _HEADING.fullmatch(line):
            level, words = len(heading[1]), heading[2]
            yield f'<h{level} id="{anchor(words)}">{_inline(words, resolve)}</h{level}>'
            at += 1
        elif not line.strip():
            at += 1
        else:
            end = at
            while end < len(lines) and lines[end].strip() and not lines[end].startswith(("```", "#")):
                end += 1
            yield _paragraph(lines[at:end], resolve)
            at = end


def _paragraph(lines: list[str], resolve: Resolve) -> str:
    """A table, a list or a paragraph, by how it begins."""
    if lines[0].startswith("|"):
        return _table(lines, resolve)
    if not lines[0].startswith("- "):
        return f"<p>{_inline(' '.join(lines), resolve)}</p>"
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line[2:])
        else:
            items[-1] += f" {line.strip()}"
    return "<ul>{}</ul>".format("".join(f"<li>{_inline(item, resolve)}</li>" for item in items))


def _table(lines: list[str], resolve: Resolve) -> str:
    rows = [_cells(line) for line in lines if not _RULE.fullmatch(line)]
    kinds = ["th", *["td"] * (len(rows) - 1)]
    written = [
        "".join(f"<{kind}>{_inline(cell, resolve)}</{kind}>" for cell in row)
        for kind, row in zip(kinds, rows, strict=True)
    ]
    return '<div class="wide" tabindex="0"><table>{}</table></div>'.format(
        "".join(f"<tr>{row}</tr>" for row in written)
    )


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _inline(text: str, resolve: Resolve) -> str:
    """Words with code, links and stress; everything else is escaped."""
    parts = _CODE.split(text)  # plain, code, plain, …
    kept: list[str] = []

    def keep(written: str) -> str:
        kept.append(written)
        return f"\0{len(kept) - 1}\0"

    plain = "".join(keep(f"<code>{html.escape(part)}</code>") if i % 2 else part for i, part in enumerate(parts))
    plain = html.escape(plain, quote=False)
    plain = _IMAGE.sub(lambda match: keep(_image(match[1], match[2], resolve)), plain)
    plain = _LINK.sub(lambda match: _link(match[1], match[2], resolve, keep), plain)
    for pattern, written in _INLINE:
        plain = pattern.sub(written, plain)
    while "\0" in plain:
        plain = re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], plain)
    return plain


def _image(words: str, target: str, resolve: Resolve) -> str:
    address = resolve(target)
    return words if address is None else f'<img src="{html.escape(address)}" alt="{html.escape(words)}">'


def _link(words: str, target: str, resolve: Resolve, keep: Callable[[str], str]) -> str:
    address = resolve(target)
    if address is None:
        return words
    opening, closing = keep(f'<a href="{html.escape(address)}">'), keep("</a>")
    return f"{opening}{words}{closing}"
