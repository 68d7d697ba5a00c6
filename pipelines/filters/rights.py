"""The op `rights`: drops documents without the required license, origin or consent.

Ingest writes these fields: from the record itself if it has them, else from the parameters of the ingest node. An empty
field never counts as permission. docs/forget.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import Document, Drop
from pipelines.filters.op import Op


@schema
class RequiredRights(Op):
    """Documents without the required rights. The first missing right gives the reason: `no_license`,
    `license_not_allowed`, `no_origin`, `no_consent`, `consent_not_allowed`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"licences": "licenses", "require_licence": "require_license"}

    kind: Literal["rights"]
    licenses: tuple[str, ...] = ()
    """Allowed licenses, compared without case as in SPDX; empty: any license and none."""
    require_license: bool = False
    """True: the license may be any, but not missing."""
    require_origin: bool = False
    """True: the origin may not be missing."""
    consents: tuple[str, ...] = ()
    """Accepted words of consent, e.g. `opt-in`, `public-domain`; empty: any word and none."""

    def __post_init__(self) -> None:
        if not (self.licenses or self.require_license or self.require_origin or self.consents):
            fix = "give licenses, require_license, require_origin or consents"
            raise ManifestError("an op of kind rights requires nothing", where="rights", fix=fix)

    def decide(self, document: Document) -> Drop | None:
        license, consent = document.license.casefold(), document.consent.casefold()
        if (self.licenses or self.require_license) and not license:
            return Drop("no_license")
        if self.licenses and license not in {allowed.casefold() for allowed in self.licenses}:
            return Drop("license_not_allowed")
        if self.require_origin and not document.origin:
            return Drop("no_origin")
        if self.consents and not consent:
            return Drop("no_consent")
        if self.consents and consent not in {accepted.casefold() for accepted in self.consents}:
            return Drop("consent_not_allowed")
        return None
