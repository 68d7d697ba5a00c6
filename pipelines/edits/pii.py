"""The op `mask_private` of a `transform` node: masks e-mail and IP addresses, telephone, card and account numbers.

Patterns and checks:
    e-mail      RFC 5321 (at most 64 characters before the @, 255 after it), ASCII only, with a top-level domain
    IP          RFC 791 and 4291; only publicly routed addresses, as in FineWeb (IANA's registries, by Python's
                `ipaddress`; version 6 within 2000::/3)
    phone       ITU-T E.164 with its `+`, and North American numbers in their usual three groups
    card        ISO/IEC 7812: 13 to 19 digits with the check digit of Luhn
    IBAN        ISO 13616: length by country, check digits modulo 97

Every pattern is bounded, so that time is linear in the length of the text. Names and postal addresses are not masked,
and notes, origin and pictures stay as they are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from manifests.load import schema
from pipelines.edits.edit import Editor, TextEdit

PiiKind = Literal["iban", "card", "email", "ip", "phone"]
KINDS: tuple[PiiKind, ...] = ("iban", "card", "email", "ip", "phone")
"""In order of precedence: of two overlapping matches the earlier kind counts."""
PLACEHOLDERS = {
    "iban": "<IBAN>",
    "card": "<CREDIT_CARD>",
    "email": "<EMAIL>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE_NUMBER>",
}

_MAILBOX_CHARACTER = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]"
_MAILBOX = re.compile(rf"[A-Za-z0-9_+-](?:{_MAILBOX_CHARACTER}{{0,62}}[A-Za-z0-9_+-])?\Z")
_DOMAIN = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IP_4 = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w]|\.\d)", re.ASCII)
_IP_6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", re.ASCII)
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
_PHONES = re.compile(
    r"(?<![\w+])\+[1-9](?:[ .()/-]{0,2}\d){7,14}(?!\d)"
    r"|(?<![\w.+-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-. ]\d{4}(?![\w-])",
    re.ASCII,
)
_CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![ -]?\d|\.\d|\w)", re.ASCII)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,27}", re.ASCII)
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28,
    "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24,
    "TR": 26, "UA": 29, "VG": 24, "XK": 20,
}  # fmt: skip

Offsets = tuple[int, int]
"""Start and exclusive stop, in characters."""


@schema
class MaskPrivate(Editor):
    """Replace each e-mail address, public IP address, phone, card and account number by a placeholder of its kind."""

    REASONS = KINDS
    kind: Literal["mask_private"]
    what: tuple[PiiKind, ...] = KINDS
    """Kinds that are masked."""

    def edits(self, text: str) -> Sequence[TextEdit]:
        matches = sorted((start, KINDS.index(kind), stop) for kind in self.what for start, stop in _FINDERS[kind](text))
        return _without_overlap([TextEdit(start, stop, PLACEHOLDERS[KINDS[k]], KINDS[k]) for start, k, stop in matches])


def _without_overlap(edits: Sequence[TextEdit]) -> list[TextEdit]:
    """Return the edits in order. Of two that overlap the earlier kind stays, of equal kinds the one that begins
    first."""
    kept: list[TextEdit] = []
    for edit in edits:
        if kept and edit.start < kept[-1].stop:
            if KINDS.index(edit.reason) < KINDS.index(kept[-1].reason):
                kept[-1] = edit
            continue
        kept.append(edit)
    return kept


def _emails(text: str) -> Iterator[Offsets]:
    """Search from each @ to both sides: a pattern from the left would try every letter of a long word."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at)
        mailbox = domain and _MAILBOX.search(text[max(0, at - 64) : at])
        if mailbox and domain:
            yield at - len(mailbox[0]), domain.end()
        at = text.find("@", at + 1)


def _ips(text: str) -> Iterator[Offsets]:
    for match in _IP_4.finditer(text):
        if ipaddress.IPv4Address(".".join(str(int(part)) for part in match[0].split("."))).is_global:
            yield match.span()
    for match in _IP_6.finditer(text):
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        if address in _PUBLIC_6 and address.is_global:
            yield match.span()


def _phones(text: str) -> Iterator[Offsets]:
    return (match.span() for match in _PHONES.finditer(text))


def _cards(text: str) -> Iterator[Offsets]:
    for match in _CARD.finditer(text):
        digits = [int(c) for c in match[0] if c.isdigit()]
        if _luhn(digits):
            yield match.span()


def _luhn(digits: Sequence[int]) -> bool:
    """Return whether the check digit is right (ISO/IEC 7812-1, annex B)."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _ibans(text: str) -> Iterator[Offsets]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        places = [place for place, character in enumerate(match[0]) if character != " "][:length]
        if length and len(places) == length:
            stop = match.start() + places[-1] + 1
            number = "".join(match[0][place] for place in places)
            ends = not text[stop : stop + 1].isalnum()
            if ends and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1:
                yield match.start(), stop


_FINDERS: dict[str, Callable[[str], Iterator[Offsets]]] = {
    "iban": _ibans,
    "card": _cards,
    "email": _emails,
    "ip": _ips,
    "phone": _phones,
}
