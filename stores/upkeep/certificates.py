"""Files of certificates in a store: `certificates/DIGEST.json`, created once.

DIGEST is taken over the lists of the certified snapshot. So a copy of the snapshot has the same name, and a snapshot
after `forget` another one. `packing/loader/certify.py` writes the content; this module only stores it. `copy` copies a
certificate, `gc` deletes it with its snapshot.
"""

from __future__ import annotations

import json

from manifests.errors import StoreError
from manifests.records import Json, canonical_json, digest
from stores.snapshot import Snapshot

FOLDER = "certificates"


def certificate_path(snapshot: Snapshot) -> str:
    """Return the path of a snapshot's certificate."""
    return f"{FOLDER}/{digest('certificate', snapshot.kind, *(entry.digest for entry in snapshot.root.lists))}.json"


def read(snapshot: Snapshot) -> Json | None:
    """Read the certificate of a snapshot; None if it has none. Raises StoreError if it is damaged."""
    path = certificate_path(snapshot)
    try:
        content = json.loads(snapshot.files.read(path))
        if content["digest"] != digest(canonical_json(content["certificate"])):
            raise ValueError
        return content["certificate"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        where, fix = f"{snapshot.url}/{path}", "delete the file and certify again"
        raise StoreError("this certificate is damaged", where=where, fix=fix) from None


def publish(snapshot: Snapshot, certificate: Json, *, renew: bool = False) -> None:
    """Write the certificate of a snapshot; durable on return.

    Args:
        renew: replace an existing one.
    Raises:
        StoreError: there is another certificate, and `renew` is false.
    """
    path = certificate_path(snapshot)
    content = {"certificate": certificate, "digest": digest(canonical_json(certificate))}
    data = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
    if renew:
        snapshot.files.delete(path)
    if not snapshot.files.swap(path, data):
        where, fix = f"{snapshot.url}/{path}", "compare, and use --renew to replace it"
        raise StoreError("there is another certificate", where=where, fix=fix)
