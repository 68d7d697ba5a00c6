"""Panels of the HTML pages: pure functions from plain values to HTML and SVG text.

They read no store. Colors are CSS variables of the page, so that light and dark mode both work. `run_page.py` and
`step_view.py` compose the pages.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from manifests.geometry import MERGE, PATCH_PX, Fit

COLORS = ("--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7")
MAX_POINTS = 400
"""Points of a line; longer ones are averaged."""

STYLE = """
:root { --bg: #fbfaf7; --fg: #22272b; --dim: #6d757c; --line: #ddd8cf; --card: #ffffff;
  --c0: #2f6f8f; --c1: #c8553d; --c2: #5b8c5a; --c3: #b88a1e; --c4: #7d5ba6; --c5: #2a9d8f;
  --c6: #9a6b4f; --c7: #c2478f; --slot: #e3a72f; --pad: #e8e4dc; }
@media (prefers-color-scheme: dark) { :root { --bg: #16191c; --fg: #e4e6e7; --dim: #98a0a6; --line: #343a40;
  --card: #1e2327; --c0: #6fb3d2; --c1: #ec8a74; --c2: #93c592; --c3: #e0bb5c; --c4: #b79be0; --c5: #62cfc2;
  --c6: #c99b80; --c7: #ea86bf; --slot: #f0c063; --pad: #2b3035; } }
body { margin: 0 auto; max-width: 1060px; padding: 24px 20px 60px; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 34px 0 6px; }
p.lead { color: var(--dim); margin: 0 0 12px; } .dim { color: var(--dim); }
section.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px;
  margin: 12px 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; } th { text-align: left; color: var(--dim); font-weight: 500; }
td, th { padding: 3px 16px 3px 0; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; } .tile { flex: 1 1 150px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; } .tile b { display: block; font-size: 21px; }
.tile span { color: var(--dim); font-size: 13px; }
.figures { display: flex; flex-wrap: wrap; gap: 14px; } figure { margin: 0; max-width: 240px; font-size: 12.5px; }
figcaption { color: var(--dim); margin-top: 4px; overflow-wrap: anywhere; }
svg text { fill: var(--fg); font: 12px system-ui, sans-serif; } svg text.dim { fill: var(--dim); }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.legend span { margin-right: 14px; font-size: 13px; white-space: nowrap; } .swatch { display: inline-block; width: 11px;
  height: 11px; border-radius: 2px; margin-right: 5px; vertical-align: -1px; }
"""


@dataclass(frozen=True)
class ChartLine:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


def page(title: str, lead: str, body: Sequence[str]) -> str:
    """A self-contained page without scripts, fonts or links."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>' + "\n".join(body) + "</body></html>\n"
    )


def section(title: str, lead: str, *content: str) -> str:
    """A heading, one sentence about the section, and its content in a frame; `content` is HTML."""
    inner = "".join(content)
    return f'<h2>{escape(title)}</h2><p class="lead">{escape(lead)}</p><section class="card">{inner}</section>'


def tiles(values: Mapping[str, str]) -> str:
    """Large figures with their labels: label -> value."""
    cells = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in values.items())
    return f'<div class="tiles">{cells}</div>'


class Raw(str):
    """HTML for a table cell, which is not escaped."""


def table(header: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """A table; numbers are right-aligned, and every text except `Raw` is escaped."""
    numeric = [bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(header))]
    classes = [" class=n" if right else "" for right in numeric]
    head = "".join(f"<th{css}>{escape(name)}</th>" for name, css in zip(header, classes, strict=True))
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return f"<td>{value if isinstance(value, Raw) else escape(value)}</td>"
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f'<td class="n">{value:.4g}</td>'


def legend(colors: Mapping[str, str]) -> str:
    """Names beside their colors: name -> CSS variable."""
    spans = "".join(
        f'<span><i class="swatch" style="background:var({color})"></i>{escape(name)}</span>'
        for name, color in colors.items()
    )
    return f'<p class="legend">{spans}</p>'


def palette(names: Sequence[str]) -> dict[str, str]:
    """Name -> CSS variable of a color; equal sets of names have equal colors."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(sorted(set(names)))}


def line_chart(series: Sequence[ChartLine], x_label: str, y_label: str, width: int = 960, height: int = 280) -> str:
    """Lines on common linear axes. Lines of more than `MAX_POINTS` points are averaged over neighbors."""
    drawn = [_thin(s) for s in series if len(s.x)]
    if not drawn:
        return '<p class="dim">no values yet</p>'
    left, right, top, bottom = 58, 22, 26, 40
    xs = np.concatenate([np.asarray(s.x, float) for s in drawn])
    ys = np.concatenate([np.asarray(s.y, float) for s in drawn])
    x_ticks, y_ticks = _ticks(xs.min(), xs.max()), _ticks(ys.min(), ys.max())
    x_low, x_high = min(x_ticks[0], xs.min()), max(x_ticks[-1], xs.max())
    y_low, y_high = min(y_ticks[0], ys.min()), max(y_ticks[-1], ys.max())

    def px(x: float) -> float:
        return left + (x - x_low) / ((x_high - x_low) or 1) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / ((y_high - y_low) or 1) * (height - top - bottom)

    out = [f'<svg viewBox="0 0 {width} {height}" width="100%" role="img">']
    for tick in y_ticks:
        out.append(
            f'<line x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" stroke="var(--line)"/>'
            f'<text class="dim" x="{left - 8}" y="{py(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    for tick in x_ticks:
        at = f'x="{px(tick):.1f}" y="{height - bottom + 18}" text-anchor="middle"'
        out.append(f'<text class="dim" {at}>{_short(tick)}</text>')
    middle = (left + width - right) / 2
    out.append(f'<text class="dim" x="{middle}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(f'<text class="dim" x="4" y="12">{escape(y_label)}</text>')
    for i, s in enumerate(drawn):
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(s.x, s.y, strict=True))
        dash = ' stroke-dasharray="5 4"' if s.dashed else ""
        stroke = f'stroke="var({COLORS[i % len(COLORS)]})" stroke-width="1.8"{dash}'
        out.append(f'<polyline points="{points}" fill="none" {stroke}/>')
    out.append("</svg>")
    return legend({s.name: COLORS[i % len(COLORS)] for i, s in enumerate(drawn)}) + "".join(out)


def _thin(series: ChartLine) -> ChartLine:
    group = math.ceil(len(series.x) / MAX_POINTS)
    if group < 2:
        return series
    edges = range(0, len(series.x), group)
    return ChartLine(
        series.name,
        [float(np.mean(series.x[i : i + group])) for i in edges],
        [float(np.mean(series.y[i : i + group])) for i in edges],
        series.dashed,
    )


def _short(value: float) -> str:
    """Number with a unit prefix: 200k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """About `wanted` round numbers that cover [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / wanted
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    return [round(i * step, 12) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def intervals(rows: Sequence[tuple[str, float, float, float]], unit: str, width: int = 960) -> str:
    """Confidence intervals: one row per (name, mean, low, high), in color if the interval lies above zero."""
    low = min([0.0, *(r[2] for r in rows)])
    high = max([0.0, *(r[3] for r in rows)]) or 1.0
    left, right, row_height = 130, 110, 26

    def px(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    height = row_height * len(rows) + 30
    out = [f'<svg viewBox="0 0 {width} {height}" width="100%" role="img">']
    out.append(f'<line x1="{px(0):.1f}" x2="{px(0):.1f}" y1="4" y2="{height - 24}" stroke="var(--dim)"/>')
    out.append(f'<text class="dim" x="{px(0):.1f}" y="{height - 8}" text-anchor="middle">0 {escape(unit)}</text>')
    for i, (name, mean, lower, upper) in enumerate(rows):
        y = row_height * i + 18
        color = "var(--c2)" if lower > 0 else "var(--dim)"
        out.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        out.append(
            f'<line x1="{px(lower):.1f}" x2="{px(upper):.1f}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="5" '
            f'stroke-linecap="round" opacity="0.45"/><circle cx="{px(mean):.1f}" cy="{y}" r="5" fill="{color}"/>'
        )
        out.append(f'<text x="{width - right + 12}" y="{y + 4}">{mean:+.2f}</text>')
    out.append("</svg>")
    return "".join(out)


@dataclass(frozen=True)
class BarSegment:
    """A segment of a pack, drawn as part of a bar; positions are tokens of the pack."""

    name: str
    group: str
    """Segments of one group have one color."""
    start: int
    length: int
    slots: Sequence[tuple[int, int]] = ()
    """(first position, count) of each run of vision slots."""


def pack_rows(
    rows: Sequence[Sequence[BarSegment]], row_tokens: int, colors: Mapping[str, str], width: int = 960
) -> str:
    """Packs as bars: segments in the color of their group, slots marked on top, padding in a neutral color."""
    height, gap = 30, 10
    out = [f'<svg viewBox="0 0 {width} {len(rows) * (height + gap)}" width="100%" role="img">']
    for r, row in enumerate(rows):
        y = r * (height + gap)
        out.append(f'<rect x="0" y="{y}" width="{width}" height="{height}" fill="var(--pad)"/>')
        for s in row:
            x, w = s.start / row_tokens * width, s.length / row_tokens * width
            out.append(
                f'<rect x="{x:.2f}" y="{y}" width="{max(w - 0.8, 0.4):.2f}" height="{height}" rx="2" '
                f'fill="var({colors[s.group]})"><title>{escape(s.name)}: {s.length} tokens</title></rect>'
            )
            for first, count in s.slots:
                out.append(
                    f'<rect x="{first / row_tokens * width:.2f}" y="{y + 5}" width="{count / row_tokens * width:.2f}" '
                    f'height="{height - 10}" fill="var(--slot)"><title>{count} slots</title></rect>'
                )
    out.append("</svg>")
    return legend({**colors, "slots": "--slot", "padding": "--pad"}) + "".join(out)


def picture(rgb: np.ndarray, fitted: Fit, caption: str) -> str:
    """An image as the encoder reads it: resized, padded, divided into patches, of which 2x2 make one slot.

    Args:
        rgb: (height, width, 3) uint8, already resized to `fitted`.
    """
    canvas = np.zeros((fitted.rows * PATCH_PX, fitted.cols * PATCH_PX, 3), np.uint8)
    canvas[: rgb.shape[0], : rgb.shape[1]] = rgb
    height, width = canvas.shape[:2]
    grid = []
    for i in range(1, fitted.cols):
        strong = i % MERGE == 0
        grid.append(f'<path d="M{i * PATCH_PX} 0V{height}" stroke-opacity="{0.75 if strong else 0.25}"/>')
    for i in range(1, fitted.rows):
        strong = i % MERGE == 0
        grid.append(f'<path d="M0 {i * PATCH_PX}H{width}" stroke-opacity="{0.75 if strong else 0.25}"/>')
    shown = 230 if width >= height else round(230 * width / height)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{shown}">'
        f'<image href="{_data_url(canvas)}" width="{width}" height="{height}"/>'
        f'<g stroke="#fff" stroke-width="0.6" fill="none">{"".join(grid)}</g></svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data_url(rgb: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
