"""Command line of millrace: a table from verb to function.

Modules are imported when their verb is used, so that `--help` stays fast. Exit codes are those of
`manifests/errors.py`."""

from __future__ import annotations

import importlib
import os
import select
import sys

VERBS = {
    "run": ("pipelines.dag.run:main", "run a manifest: a DAG of nodes from raw files to a trained model"),
    "train": ("train.command:main", "train one stage from committed packs; the train node of a DAG calls it"),
    "store": ("stores.command:main", "log, verify, tag, copy and clean a store; forget records"),
    "explain": ("pipelines.inspect.explain:main", "explain why a document, an image or a URL is in or out of a run"),
    "inspect": ("pipelines.inspect.command:main", "show a store, a plan or a run; never writes"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: millrace VERB ...\n")
        for verb, (_, sentence) in VERBS.items():
            print(f"  {verb:9}{sentence}")
        print("\nmillrace VERB --help shows its options and examples.")
        return 0
    if arguments[0] not in VERBS:
        print(f"millrace: no verb {arguments[0]!r}\n  fix: one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    module, function = VERBS[arguments[0]][0].split(":")
    from manifests.errors import MillraceError

    try:
        code = getattr(importlib.import_module(module), function)(arguments[1:])
        sys.stdout.flush()
        return code
    except MillraceError as error:
        print(f"millrace: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("millrace: stopped; run the same command again to continue, committed work stays", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _stdout_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the buffer
        return 1


def _stdout_closed() -> bool:
    """Return whether the reader of stdout has closed it, as `head` does."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & select.POLLERR for _, events in pipe.poll(0))


if __name__ == "__main__":
    sys.exit(main())
