"""Certificates lie beside what they certify: `certificates/DIGEST.json`, created once.

The name says which bytes are meant: it is a digest over the lists that a snapshot reaches. A copy has the same, a
snapshot from which something was forgotten has another. What a certificate says is packing's affair
(`packing/loader/certify.py`); here stands only how it lies in a store, comes along with a copy and goes with its
snapshot.
"""

from __future__ import annotations

import json

from manifests.errors import StoreError
from manifests.records import Json, canonical_json, digest
from stores.snapshot import Snapshot

FOLDER = "certificates"


def certificate_path(snapshot: Snapshot) -> str:
    return f"{FOLDER}/{digest('certificate', snapshot.kind, *(one.digest for one in snapshot.root.lists))}.json"


def read(snapshot: Snapshot) -> Json | None:
    """What was certified about `snapshot`; None where nothing was. Raises StoreError for one that can't be read."""
    path = certificate_path(snapshot)
    try:
        told = json.loads(snapshot.files.read(path))
        if told["digest"] != digest(canonical_json(told["certificate"])):
            raise ValueError
        return told["certificate"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        where, fix = f"{snapshot.url}/{path}", "delete the file and certify again"
        raise StoreError("this certificate is damaged", where=where, fix=fix) from None


def publish(snapshot: Snapshot, certificate: Json, *, renew: bool = False) -> None:
    """Durable when it returns. Raises StoreError where there is another one, unless `renew` is said."""
    path = certificate_path(snapshot)
    told = {"certificate": certificate, "digest": digest(canonical_json(certificate))}
    data = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
    if renew:
        snapshot.files.delete(path)
    if not snapshot.files.swap(path, data):
        where, fix = f"{snapshot.url}/{path}", "compare, and say --renew to replace it"
        raise StoreError("there is another certificate", where=where, fix=fix)
