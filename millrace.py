"""millrace: one program, few verbs. This file is a table from verb to function and nothing more."""

from __future__ import annotations

import importlib
import os
import select
import sys

VERBS = {
    "run": ("pipelines.dag.run:main", "run a manifest: a DAG of nodes from raw files to a trained model"),
    "train": ("train.command:main", "train one stage off committed packs (what a DAG's train node starts)"),
    "store": ("stores.command:main", "a store's history, health, tags, copies; clean it, forget records"),
    "explain": ("pipelines.inspect.explain:main", "why a document, an image or a URL is in or out of a run"),
    "inspect": ("pipelines.inspect.command:main", "look at a store, a plan or a run; never writes"),
}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: millrace VERB ...\n")
        for verb, (_, sentence) in VERBS.items():
            print(f"  {verb:9}{sentence}")
        print("\nmillrace VERB --help says more, with examples.")
        return 0
    if arguments[0] not in VERBS:
        print(f"millrace: no verb {arguments[0]!r}; there are: {', '.join(VERBS)}", file=sys.stderr)
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
        print("millrace: stopped; what was committed stays, run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in a buffer goes there
        return 1


def _nobody_reads() -> bool:
    """Whether who read stdout has seen enough, as `head` has."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), select.POLLOUT)
    return any(told & select.POLLERR for _, told in pipe.poll(0))


if __name__ == "__main__":
    sys.exit(main())
