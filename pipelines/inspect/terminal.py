"""Text output of `millrace inspect` and `millrace explain`: plain values as lines and tables that fit the terminal.

A heading is wrapped between words and never inside one. Numbers, ids and digests are never wrapped, so that they can be
read and copied. A table that can't fit is printed as one block per row.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from rich.cells import cell_len, chop_cells
from rich.console import Console

from manifests.records import Json

LEAST_WIDTH = 80
"""Columns that are used at least, also in a narrower terminal."""
PIPED_WIDTH = 100
"""Columns where the output is no terminal and COLUMNS is not set."""
GAP = 2
"""Spaces between two columns of a table."""
TITLE_WIDTH = 14
"""Width of the name in a line `name value`."""

BREAKS = re.compile(r"(?<=[ _/|>])|(?<=[.:-])(?=[A-Za-z])")
"""Positions at which a long word may be wrapped: `dedup_` + `exact`."""
ID = re.compile("[0-9a-f]{12,}")
"""Ids and digests, which are never wrapped."""
QUANTITY = re.compile(r"-?[\d.,:]+[MBT]?( ([kMGT]?B|s|d))?")
"""Numbers, sizes and durations, which are never wrapped; a column of them is right-aligned."""
UNPRINTABLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters of the data, which could move the cursor of a terminal."""

LABELS = {
    "balance": "balance: load of the busiest rank over the ideal load",
    "by": "node and op",
    "changed_limit": "changed limit",
    "characters_after": "characters with change",
    "contaminated": "contaminated by evaluations",
    "content_root": "content root",
    "continued_segments": "segments that continue a document",
    "documents_after": "documents with change",
    "documents_per_s": "documents per second",
    "dropped_first": "dropped by no earlier op",
    "duplicate_of": "duplicate of",
    "encoded_size": "encoded size",
    "exposed_steps": "steps that contained the record",
    "first_position": "first position",
    "first_slot": "first slot",
    "first_step": "first step",
    "first_token": "first token",
    "global_batch": "global batch",
    "global_batches": "global batches",
    "grounding": "visual grounding: loss with another scene's image minus loss with the own image, nats per token",
    "groups": "by source and domain",
    "held_out_loss": "held-out loss, nats per token",
    "largest_error_slots": "largest error of the vision share, slots",
    "loss_text": "text loss",
    "loss_tokens": "tokens with loss",
    "loss_vision": "loss of captions and answers about media",
    "max": "highest",
    "max_document_exposures": "highest count of one document",
    "max_epochs": "max epochs",
    "max_media_exposures": "highest count of one medium",
    "ops": "ops: effect of each op on all documents that reach the filter",
    "one_pack_slots": "allowed error of the vision share, slots",
    "other_matches": "other records with this name",
    "pack_limits": "fill of each pack limit",
    "padding_text_only": "padding in packs without media",
    "padding_with_media": "padding in packs with media",
    "positions": "use of all token positions",
    "quantity": "per pack",
    "refused": "pieces that fit no pack",
    "repeated_documents": "documents shown more than once",
    "repeated_media": "media shown more than once",
    "running_share": "share so far",
    "sampled_batches": "batches sampled",
    "shared_documents": "documents in more than one source",
    "shown_documents": "documents shown",
    "shown_media": "media shown",
    "shrunk_media": "media shrunk",
    "split_documents": "documents that are split",
    "splits": "split documents",
    "text_exhausted_step": "text used up at step",
    "text_tokens": "text and media markers",
    "token_counts": "tokens",
    "tokens_after": "tokens with change (estimate)",
    "until_token": "until token",
    "vision_exhausted_step": "vision used up at step",
    "vision_share": "vision share",
    "vision_share_windows": "vision share by window",
    "vision_slots": "vision slots",
}
"""Key of a result -> words for people, where the key alone is not clear. `--json` prints the keys."""
SECTION_LABELS = {"segments": {"loss_tokens": "with loss"}}
"""Section -> column -> heading, for columns whose heading depends on the section."""


def label(key: str) -> str:
    """Words for a key of a result."""
    return LABELS.get(key, key)


def console() -> Console:
    """A console on stdout as wide as the terminal, which prints text as it is."""
    columns = shutil.get_terminal_size((PIPED_WIDTH, 24)).columns
    return Console(width=max(LEAST_WIDTH, columns), highlight=False, markup=False, emoji=False)


def show(values: Mapping[str, Json]) -> None:
    """Print a result: scalars as lines, a mapping as two columns, a list of mappings as a table."""
    out = console()
    after_section = False
    for key, value in values.items():
        title = label(key)
        is_section = isinstance(value, (dict, list))
        if after_section and not is_section:
            _line(out, "")
        after_section = is_section
        if isinstance(value, dict):
            _line(out, f"\n{title}")
            print_lines(out, two_columns(value, out.width))
        elif isinstance(value, list):
            _line(out, f"\n{title}" if value else f"\n{title}: none")
            if value and isinstance(value[0], dict):
                print_lines(out, table(_with_headings(key, value), out.width))
            else:
                for inner in value:
                    text = cell(inner).replace("\n", "\n  ")
                    _line(out, f"  {text}")
        else:
            _line(out, f"{title:{TITLE_WIDTH}}{cell(value)}")


def _with_headings(section: str, rows: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    headings = SECTION_LABELS.get(section, {})
    return [{headings.get(key, key): value for key, value in row.items()} for row in rows]


def print_lines(out: Console, lines: Sequence[str]) -> None:
    """Print lines as they are, with control characters replaced."""
    for line in lines:
        _line(out, line)


def _line(out: Console, line: str) -> None:
    out.print(line.translate(UNPRINTABLE), soft_wrap=True)


def cell(value: Json) -> str:
    """A value as text: numbers with thousands separators, counts as `reason 12`, lists and other mappings as JSON."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4f}".rstrip("0").rstrip(".")
    if isinstance(value, dict) and value and all(type(count) is int for count in value.values()):
        return ", ".join(f"{key} {count:,}" for key, count in value.items())
    return "" if value == {} else json.dumps(value, ensure_ascii=False)


def two_columns(values: Mapping[str, Json], width: int) -> list[str]:
    """Lines `key  value`, indented by two, for values that are not empty; long values are wrapped."""
    named = [(label(key), value) for key, value in values.items() if value is not None and value != ""]
    first = max((cell_len(name) for name, _ in named), default=0)
    lines = []
    for name, value in named:
        parts = [part for text in cell(value).split("\n") for part in wrap(text, width - first - 2 * GAP)] or [""]
        lines += [f"  {_pad(name if i == 0 else '', first)}  {part}".rstrip() for i, part in enumerate(parts)]
    return lines


def table(rows: Sequence[Mapping[str, Json]], width: int, optional: Sequence[str] = ()) -> list[str]:
    """Lines of a table with a heading; columns in the order in which the keys first appear.

    A table that is too wide with every column wrapped loses its `optional` columns, one after the other. If it still
    does not fit, it becomes one block of lines `key  value` per row.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    headings = [label(key) for key in keys]
    columns = [[" ".join(cell(row.get(key)).split("\n")) for row in rows] for key in keys]
    right = [all(QUANTITY.fullmatch(text) for text in texts if text) for texts in columns]
    widths = _fit(headings, columns, width)
    if widths is None and optional:
        without = [{key: value for key, value in row.items() if key != optional[0]} for row in rows]
        return table(without, width, optional[1:])
    if widths is None:
        blocks = [{key: row[key] for key in keys if row.get(key) not in (None, "")} for row in rows]
        return [line for block in blocks for line in (*two_columns(block, width), "")][:-1]
    lines = _row(headings, widths, right)
    for texts in zip(*columns, strict=True):
        lines += _row(texts, widths, right)
    return lines


def _fit(headings: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Width of each column, or None if the table can't fit.

    Long headings are wrapped first, then the cells of the widest column that may be wrapped.
    """
    longest = [max(map(cell_len, texts)) for texts in columns]
    words = [max(map(cell_len, heading.split())) for heading in headings]
    parts = [max(cell_len(part.rstrip()) for text in texts for part in BREAKS.split(text)) for texts in columns]
    wrappable = [_may_wrap(texts) for texts in columns]
    steps: tuple[Callable[[int], int], ...] = (  # longest part of a cell without a break -> narrowest column
        lambda part: max(16, part),
        lambda part: max(8, part),
        lambda part: min(16, part),
    )
    limits = [[max(pair) for pair in zip(longest, words, strict=True)]]
    for narrowest in steps:
        cells = [
            min(wide, narrowest(part)) if may_wrap else wide
            for wide, part, may_wrap in zip(longest, parts, wrappable, strict=True)
        ]
        limits.append([max(pair) for pair in zip(cells, words, strict=True)])
    widths = [max(cell_len(heading), wide) for heading, wide in zip(headings, longest, strict=True)]
    free = width - GAP * (len(widths) - 1)
    for limit in limits:
        while sum(widths) > free:
            excess = [(wide, i) for i, wide in enumerate(widths) if wide > limit[i]]
            if not excess:
                break
            widths[max(excess)[1]] -= 1
    return widths if sum(widths) <= free else None


def _may_wrap(texts: Sequence[str]) -> bool:
    """Return whether the cells of a column may be wrapped: it holds no id, and not only numbers."""
    return not (any(ID.fullmatch(text) for text in texts) or all(QUANTITY.fullmatch(text) for text in texts if text))


def _row(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """The lines of one row; `right` tells the columns that are right-aligned."""
    wrapped = [wrap(text, wide) for text, wide in zip(texts, widths, strict=True)]
    return [
        (" " * GAP).join(_pad(*part) for part in zip(parts, widths, right, strict=True)).rstrip()
        for parts in zip_longest(*wrapped, fillvalue="")
    ]


def _pad(text: str, width: int, right: bool = False) -> str:
    spaces = " " * (width - cell_len(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int) -> list[str]:
    """Wrap a text at spaces, and inside longer words at `_`, `/` and the like; only as a last resort anywhere."""
    lines, line = [], ""
    for part in BREAKS.split(text):
        if cell_len((line + part).rstrip()) > width and line:
            lines.append(line.rstrip())
            line = ""
        line += part
        if cell_len(line.rstrip()) > width:
            *full, line = chop_cells(line, width)
            lines += full
    return [*lines, line.rstrip()]
