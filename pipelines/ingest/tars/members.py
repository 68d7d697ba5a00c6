"""Samples from the members of a foreign tar: neighbors with the same key, grouped as `webdataset` groups them.

`stores/shards/scan_tar.py` finds the members; `layouts.py` makes documents of the samples. The key of a member is
everything before the first dot of its base name, folders included; the rest is its ending. A problem is kept with its
sample, so that it costs this sample and no other.
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
"""Endings of members that may hold text or JSON."""
MOST_TEXT_BYTES = 16 << 20
"""Limit on such a member."""
MOST_SAMPLE_BYTES = 256 << 20
"""Limit on the payloads of one sample, which is held in memory as a whole."""
MOST_MEMBERS, MOST_NAME = 4096, 4096
"""Limits on the members of a sample and the characters of a name."""

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")
"""Names that `webdataset` reserves."""


@dataclass
class TarSample:
    """A sample of a foreign tar: the members with one key."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """Members by ending, in lower case, in the order of the tar."""
    problem: tuple[str, str] | None = None
    """(reason, message) of its first problem; such a sample goes to quarantine."""
    held_bytes: int = 0
    """Bytes of its payloads."""

    def spoil(self, reason: str, message: str) -> None:
        """Record a problem, unless there is an earlier one."""
        self.problem = self.problem or (reason, message)


def split_name(name: str) -> tuple[str, str] | None:
    """Return (key, ending); None for a name that `webdataset` skips."""
    match = _KEY.fullmatch(name)
    return None if match is None or _META.match(name) else (match[1], match[2].lower())


def medium_kind(ending: str) -> str | None:
    """Return `image` or `video` for an ending of media, else None."""
    return MEDIA_KINDS.get("." + ending.rpartition(".")[2])


def is_wanted(endings: Collection[str], name: str, size: int) -> bool:
    """Whether the payload of a member is read: its ending is one of media or text, or one of `endings`, and its size is
    within limits."""
    keyed = split_name(name)
    return keyed is not None and size <= _limit(keyed[1], endings)


def _limit(ending: str, endings: Collection[str]) -> int:
    """Return the largest size of a member with this ending; -1 if it is not read."""
    match medium_kind(ending):
        case "image":
            return images.LIMITS.max_bytes
        case "video":
            return min(videos.LIMITS.max_bytes, MOST_SAMPLE_BYTES)
    if ending.rpartition(".")[2] in TEXT_ENDINGS:
        return MOST_TEXT_BYTES
    return images.LIMITS.max_bytes if ending in endings else -1


def group_samples(
    members: Iterable[Member | TarDamage], endings: Collection[str]
) -> Iterator[TarSample | TarDamage | str]:
    """Yield samples and damages in the order of the tar, and the names of members without key.

    The samples next to a damage may have lost members. They are spoiled, with the damage in their message. A damage
    that follows a sample is reported with that sample only.
    """
    sample: TarSample | None = None
    damage_before = ""
    """Message of a damage right before the next sample."""
    for member in members:
        if isinstance(member, TarDamage):
            keyed = split_name(member.name)
            if sample is not None and keyed is not None and keyed[0] != sample.key:
                yield sample  # whole: the damage cuts off a member of another sample
                sample = None
            if sample is None:
                yield member
            else:
                sample.spoil(member.reason, f"it may have lost members: {member.message}")
                yield sample
                sample = None
            damage_before = member.message
            continue
        keyed = split_name(member.name)
        if keyed is None or member.type == "folder":
            if member.type != "folder" and not _META.match(member.name):
                yield printable_path(member.name)
            continue
        key, ending = keyed
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = TarSample(key)
            if damage_before:
                sample.spoil("damaged_header", f"it may have lost members: {damage_before}")
                damage_before = ""
        _add(sample, ending, member, _limit(ending, endings))
    if sample is not None:
        yield sample


def _add(sample: TarSample, ending: str, member: Member, limit: int) -> None:
    """Add a member to its sample, or spoil the sample."""
    name = printable_path(member.name)
    if problem := _bad_name(member.name):
        return sample.spoil("bad_name", f"{name[:200]}: {problem}")
    if member.type != "file":
        reasons = {"link": "link_in_tar", "sparse": "sparse_member"}
        return sample.spoil(reasons.get(member.type, "special_file"), f"{name} is no regular file")
    if ending in sample.members:
        return sample.spoil("duplicate_member", f"{name} is in the sample twice")
    if len(sample.members) == MOST_MEMBERS:
        return sample.spoil("too_many_members", f"more than {MOST_MEMBERS}")
    if member.payload is None and limit >= 0:
        return sample.spoil("too_large", f"{name} has {member.size} bytes, the limit is {limit}")
    sample.held_bytes += len(member.payload or b"")
    if sample.held_bytes > MOST_SAMPLE_BYTES:
        sample.members.clear()  # frees their memory
        return sample.spoil("too_large", f"a sample of more than {MOST_SAMPLE_BYTES} bytes")
    sample.members[ending] = member
    return None


def _bad_name(name: str) -> str:
    """Return the problem of a member's name, empty if there is none."""
    if name.startswith("/"):
        return "an absolute path"
    if len(name) > MOST_NAME:
        return f"more than {MOST_NAME} characters"
    if ".." in name.split("/"):
        return "a path with .."
    try:
        name.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return "a NUL character" if "\0" in name else ""
