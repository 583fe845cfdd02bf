"""Make matplotlib's SVG part of a page: colors become CSS variables, so that one drawing is legible on light and on dark."""

from __future__ import annotations

import re
from html import escape

# Stand-ins that matplotlib draws with; `embed` swaps each for what the page's style sheet defines.
INK = "#123400"
GRID = "#123401"
PAPER = "#123402"
COLORS = 8
_STANDS = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)"} | {f"#12350{i}": f"var(--r{i})" for i in range(COLORS)}


def color(index: int) -> str:
    """The stand-in for the color of recipe number ``index``; colors repeat after eight, markers then differ."""
    return f"#12350{index % COLORS}"


def embed(drawing: str, name: str, title: str, description: str) -> str:
    """``drawing`` (a whole SVG file) as an element for an HTML page.

    Ids get the prefix ``name``, so that two drawings can share a page; fonts become the page's; prolog and metadata go;
    ``title`` and ``description`` are what a screen reader says.
    """
    body = drawing[drawing.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: ((?:\w+ )*[\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    for stand, real in _STANDS.items():
        body = body.replace(stand, real)
    head, rest = body.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    label = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return f'{head} role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc">{label}{rest.strip()}'
