"""The errors people see: what went wrong, where, expected against got, and the next step.

Three tolerances. Manifests fail before work starts (`ManifestError`); bad records are set aside with a reason and
many in a row stop the run (`RecordError`); restoring tolerates nothing (`ResumeError`). `StoreError` says that bytes
on disk are not what the store promised. Every one of them carries the exit code of the command line.
"""

from __future__ import annotations


class MillraceError(Exception):
    """Base of every error that is meant for the user. `fix` is the next step, printed on a line of its own."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        self.message, self.where, self.fix = message, where, fix
        super().__init__(message, where, fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class ManifestError(MillraceError):
    """A manifest or a command line asks for something that can't be: found before any work starts."""

    exit_code = 2


class RecordError(MillraceError):
    """One record is unusable. Caught in exactly one place, which sends the record to quarantine.

    `reason` is a stable code (`truncated_image`, `no_text`), counted and shown by `millrace inspect`.
    """

    def __init__(self, reason: str, message: str = "", *, where: str = "") -> None:
        super().__init__(message or reason, where=where)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (RecordError, (self.reason, self.message))  # travels back from worker processes


class StoreError(MillraceError):
    """A store is missing, damaged, of another kind, or was changed by someone else at the same time."""


class ResumeError(MillraceError):
    """Saved state and the present set-up disagree; continuing would change what is trained."""

    exit_code = 3
