"""Exact duplicates: documents of the same text and the same media, wherever they came from.

After the filters, before tokenisation. `keys` runs on one unit at a time, `decide` once over all of them; the result
is decision columns, so nothing is copied. Of a group the smallest id survives: neither the order of the units nor how
records are spread over them matters, a second pass over the survivors changes nothing, and no group loses its last
member.

Text is compared with runs of white space counted as one, media by the digest of their encoded bytes, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import Document, Text, digest

VERSION = 1
REASON = "exact_duplicate"

KEYS = pa.schema([("id", pa.string()), ("key", pa.binary(32))])
DECISIONS = pa.schema([("keep", pa.bool_()), ("reason", pa.string()), ("duplicate_of", pa.string())])


def keys(documents: Iterable[Document]) -> pa.Table:
    """`KEYS`, one row per document. Only documents still kept belong here: a dropped one must not displace others."""
    rows = [(document.id, content_key(document)) for document in documents]
    return pa.table({"id": [row[0] for row in rows], "key": [row[1] for row in rows]}, schema=KEYS)


def content_key(document: Document) -> bytes:
    """32 bytes, equal for documents that count as the same."""
    said: list[str] = []
    for is_text, parts in groupby(document.parts, lambda part: isinstance(part, Text)):
        if is_text:
            words = " ".join(part.text for part in parts if isinstance(part, Text)).split()
            said += ["text", " ".join(words)] if words else []
        else:
            said += [word for part in parts if not isinstance(part, Text) for word in ("media", part.digest)]
    return bytes.fromhex(digest("exact", *said))


def decide(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """`KEYS` tables -> `DECISIONS` tables, row by row; `duplicate_of` is the id of the survivor."""
    everything = pa.concat_tables([KEYS.empty_table(), *tables]).combine_chunks()
    ids = everything["id"]
    groups = pc.dictionary_encode(everything["key"]).combine_chunks()
    group = groups.indices.to_numpy() if len(everything) else np.zeros(0, np.int32)
    order = pc.sort_indices(
        pa.table({"group": group, "id": ids}), sort_keys=[("group", "ascending"), ("id", "ascending")]
    ).to_numpy()
    leads = np.ones(len(order), bool)
    leads[1:] = np.diff(group[order]) != 0
    survivor = order[leads][group]
    keep = survivor == np.arange(len(order))
    dropped = pa.array(~keep)
    decisions = pa.table(
        {
            "keep": keep,
            "reason": pc.if_else(dropped, REASON, pa.scalar(None, pa.string())),
            "duplicate_of": pc.if_else(dropped, ids.take(pa.array(survivor)), pa.scalar(None, pa.string())),
        },
        schema=DECISIONS,
    )
    starts = np.cumsum([0, *map(len, tables)])
    return [decisions.slice(start, len(table)) for start, table in zip(starts[:-1].tolist(), tables, strict=True)]
