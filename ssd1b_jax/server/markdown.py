"""Documents in Markdown as HTML: CommonMark and tables, with headings that links find."""

import re
from collections.abc import Callable, Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

Resolve = Callable[[str], str | None]  # a link's target to its address, or None where it has none

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")
_PARSER.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0"><table>\n')
_PARSER.add_render_rule("table_close", lambda *_: "</table></div>\n")


def to_html(text: str, resolve: Resolve) -> str:
    """A document's HTML. A link or an image without an address becomes its words; what is wide can be scrolled."""
    tokens = _PARSER.parse(text)
    for opening, content in zip(tokens, tokens[1:], strict=False):
        if opening.type == "heading_open":
            opening.attrSet("id", anchor(content.content))
    for token in tokens:
        if token.type == "inline":
            token.children = list(_addressed(token.children or [], resolve))
    html = _PARSER.renderer.render(tokens, _PARSER.options, {})
    return html.replace("<pre>", '<pre tabindex="0">')


def anchor(heading: str) -> str:
    """The name by which links find a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _addressed(tokens: list[Token], resolve: Resolve) -> Iterator[Token]:
    """The tokens of a line, with the addresses of its links and images; links do not nest."""
    has_link = True
    for token in tokens:
        if token.type == "link_open":
            address = resolve(str(token.attrGet("href")))
            if has_link := address is not None:
                token.attrSet("href", address)
                yield token
        elif token.type == "image" and (address := resolve(str(token.attrGet("src")))) is None:
            yield Token("text", "", 0, content=token.content)
        elif token.type == "image":
            token.attrSet("src", address)
            yield token
        elif token.type != "link_close" or has_link:
            yield token
