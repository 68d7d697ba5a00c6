"""The filter that asks whose a document is: licence, origin and consent, as ingest found them.

What a record says of itself comes first, what the ingest node was told about all of them
second; where neither says anything the field is empty, and an empty field never counts as permission.
"""

from __future__ import annotations

from typing import Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import Document, Drop
from pipelines.filters.op import Op


@schema
class RequiredRights(Op):
    """Documents without the rights that are asked for. The first that is missing says why:

    `no_licence`, `licence_not_allowed`, `no_origin`, `no_consent`, `consent_not_allowed`.
    """

    kind: Literal["rights"]
    licences: tuple[str, ...] = ()
    """Those that are allowed, compared without case as SPDX has it; none given: any, also none."""
    require_licence: bool = False
    """Any licence will do, but there must be one."""
    require_origin: bool = False
    consents: tuple[str, ...] = ()
    """Words of consent that are accepted, e.g. `opt-in`, `public-domain`; none given: any, also none."""

    def __post_init__(self) -> None:
        if not (self.licences or self.require_licence or self.require_origin or self.consents):
            fix = "give licences, require_licence, require_origin or consents"
            raise ManifestError("an op of kind rights asks for nothing", where="rights", fix=fix)

    def decide(self, document: Document) -> Drop | None:
        licence, consent = document.licence.casefold(), document.consent.casefold()
        if (self.licences or self.require_licence) and not licence:
            return Drop("no_licence")
        if self.licences and licence not in {allowed.casefold() for allowed in self.licences}:
            return Drop("licence_not_allowed")
        if self.require_origin and not document.origin:
            return Drop("no_origin")
        if self.consents and not consent:
            return Drop("no_consent")
        if self.consents and consent not in {accepted.casefold() for accepted in self.consents}:
            return Drop("consent_not_allowed")
        return None
