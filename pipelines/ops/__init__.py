"""Pure functions of one document: `apply(document) -> Document | Drop`, one frozen dataclass each."""
