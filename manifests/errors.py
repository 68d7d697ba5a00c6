"""Errors for users: the problem, its place, expected and actual values, and the next step.

Three tolerances. Manifests fail before work starts (`ManifestError`); bad records are quarantined with a reason, and
many in a row stop the run (`RecordError`); restoring tolerates no difference (`ResumeError`). `StoreError` means that
bytes on disk are not what the store promised. Each class has the exit code of the command line.
"""

from __future__ import annotations


class MillraceError(Exception):
    """Base of every error that is meant for users.

    `where` is the place of the problem (file:line, store, record), `fix` the next step; `str` puts `fix` on its own
    line."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        self.message, self.where, self.fix = message, where, fix
        super().__init__(message, where, fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class ManifestError(MillraceError):
    """A manifest or a command line is invalid; raised before any work starts."""

    exit_code = 2


class RecordError(MillraceError):
    """One record is unusable. Exactly one place catches it and quarantines the record.

    `reason` is a stable code (`truncated_image`, `no_text`) that `millrace inspect` counts and shows.
    """

    def __init__(self, reason: str, message: str = "", *, where: str = "") -> None:
        super().__init__(message or reason, where=where)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (RecordError, (self.reason, self.message))  # pickled by worker processes


class StoreError(MillraceError):
    """A store is missing, damaged, of another kind, or was changed by another writer at the same time."""


class ResumeError(MillraceError):
    """Saved state and the current setup disagree; continuing would change the training."""

    exit_code = 3
