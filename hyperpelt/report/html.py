"""Pieces of a report's page: the document with its style, tables, pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from hyperpelt import __version__

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.2rem } h3 { font-size: 1rem }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child, .text { text-align: left } tr.total td { font-weight: 600; border-top: 2px solid #999 }
.scroll, pre { overflow-x: auto } img { max-width: 100%; height: auto } pre { background: #f6f6f6; padding: .8rem }
.note { color: #666; font-size: .85rem } .contents { line-height: 2 }
details { margin: .4rem 0 } summary { cursor: pointer }
.confusion td:not(:first-child), .confusion th { text-align: center }
.worst td { vertical-align: top } .worst .text { text-align: left }
.worst .input { white-space: pre-wrap; min-width: 24rem } .worst th { text-align: left }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0 } .scroll { overflow: visible } table { font-size: 8pt }
  th, td { padding: .15rem .35rem; white-space: normal } img, tr { break-inside: avoid } h2, h3 { break-after: avoid }
  details::details-content { content-visibility: visible } a { color: inherit; text-decoration: none }
}
"""


def document(title: str, body: str) -> str:
    """A whole page; it needs no network and no script."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f'<body><h1>{escape(title)}</h1>\n{body}\n<p class="note">Made by hyperpelt {__version__}.</p></body></html>\n'
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, total: Sequence[str] | None = None) -> str:
    """Rows of text below their heads; `total` is set apart."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)

    lines = [f"<tr>{line(row, 'td')}</tr>" for row in rows]
    lines += [f'<tr class="total">{line(total, "td")}</tr>'] if total else []
    return f'<div class="scroll"><table><tr>{line(heads, "th")}</tr>\n' + "\n".join(lines) + "</table></div>"


def anchor(name: str) -> str:
    """A run's name as the place that a link leads to; of other names, other places."""
    return "run-" + "".join(letter if letter.isalnum() else f"-{ord(letter):x}-" for letter in name)


def picture(svg: str, description: str) -> str:
    """An SVG inside the page."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<p><img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}"></p>'
