"""Members of a foreign tar to samples: neighbours with one key, as `webdataset` groups them.

`stores/shards/scan_tar.py` finds the members, `ingest/tars/layouts.py` says what a sample means. A key is everything
before the first dot of the base name, folders included, the rest is the ending. What a sample has that it should not
have is told with it, so that it costs this sample and no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from pipelines.ingest.formats.file import printable_path
from pipelines.ingest.formats.suffixes import MEDIA_KINDS
from stores.media import image as images
from stores.media import video as videos
from stores.shards.scan_tar import Member, TarDamage

TEXT_ENDINGS = ("txt", "text", "caption", "md", "cls", "json")
MOST_TEXT_BYTES = 16 << 20
MOST_SAMPLE_BYTES = 256 << 20
"""Of payloads; one sample stands in memory as a whole."""
MOST_MEMBERS, MOST_NAME = 4096, 4096

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")
"""Names that `webdataset` keeps for itself."""


@dataclass
class TarSample:
    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By ending, in lower case, in the order of the tar."""
    problem: tuple[str, str] | None = None
    """Reason and message: the first thing that is wrong with it."""
    held_bytes: int = 0

    def spoil(self, reason: str, message: str) -> None:
        self.problem = self.problem or (reason, message)


def split(name: str) -> tuple[str, str] | None:
    """(key, ending); None for what `webdataset` passes over."""
    found = _KEY.fullmatch(name)
    return None if found is None or _META.match(name) else (found[1], found[2].lower())


def medium_kind(ending: str) -> str | None:
    """image, video, or None."""
    return MEDIA_KINDS.get("." + ending.rpartition(".")[2])


def wanted(named: Collection[str], name: str, size: int) -> bool:
    """Whether a member is read rather than passed over: of a kind that samples are made of, or with an ending that is
    `named`, and within limits."""
    keyed = split(name)
    return keyed is not None and size <= _limit(keyed[1], named)


def _limit(ending: str, named: Collection[str]) -> int:
    """-1 for what is not read."""
    match medium_kind(ending):
        case "image":
            return images.LIMITS.max_bytes
        case "video":
            return min(videos.LIMITS.max_bytes, MOST_SAMPLE_BYTES)
    if ending.rpartition(".")[2] in TEXT_ENDINGS:
        return MOST_TEXT_BYTES
    return images.LIMITS.max_bytes if ending in named else -1


def samples(members: Iterable[Member | TarDamage], named: Collection[str]) -> Iterator[TarSample | TarDamage | str]:
    """Samples and damages in the order of the tar, and names of members that belong to no sample.

    A sample that a damage touches is spoiled, since nobody knows which members it lost, and the damage told with it.
    """
    sample: TarSample | None = None
    behind = ""
    """What the next sample is told of the damage before it."""
    for member in members:
        if isinstance(member, TarDamage):
            cut = split(member.name)
            if sample is not None and cut is not None and cut[0] != sample.key:
                yield sample  # whole: another one is cut off
                sample = None
            if sample is None:
                yield member
            else:
                sample.spoil(member.reason, f"it may have lost members: {member.message}")
                yield sample
                sample = None
            behind = member.message
            continue
        keyed = split(member.name)
        if keyed is None or member.type == "folder":
            if member.type != "folder" and not _META.match(member.name):
                yield printable_path(member.name)
            continue
        key, ending = keyed
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = TarSample(key)
            if behind:
                sample.spoil("damaged_header", f"it may have lost members: {behind}")
                behind = ""
        _add(sample, ending, member, _limit(ending, named))
    if sample is not None:
        yield sample


def _add(sample: TarSample, ending: str, member: Member, limit: int) -> None:
    name = printable_path(member.name)
    if problem := _bad_name(member.name):
        return sample.spoil("bad_name", f"{name[:200]}: {problem}")
    if member.type != "file":
        reasons = {"link": "link_in_tar", "sparse": "sparse_member"}
        return sample.spoil(reasons.get(member.type, "special_file"), f"{name} is no ordinary file")
    if ending in sample.members:
        return sample.spoil("duplicate_member", f"{name} stands there twice")
    if len(sample.members) == MOST_MEMBERS:
        return sample.spoil("too_many_members", f"more than {MOST_MEMBERS}")
    if member.payload is None and limit >= 0:
        return sample.spoil("too_large", f"{name} has {member.size} bytes, the limit is {limit}")
    sample.held_bytes += len(member.payload or b"")
    if sample.held_bytes > MOST_SAMPLE_BYTES:
        sample.members.clear()  # what it held is let go
        return sample.spoil("too_large", f"a sample of more than {MOST_SAMPLE_BYTES} bytes")
    sample.members[ending] = member
    return None


def _bad_name(name: str) -> str:
    if name.startswith("/"):
        return "an absolute path"
    if len(name) > MOST_NAME:
        return f"more than {MOST_NAME} characters"
    if ".." in name.split("/"):
        return "a path that leads upwards"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return "a NUL character" if "\0" in name else ""
