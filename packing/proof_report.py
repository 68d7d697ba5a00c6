"""Check of a packs store for `millrace store verify`: a recount whose result is put in sentences.

`stores/command.py` names `check_packs` as a string, because `stores` must not import `packing`. The plan and the
vocabulary are found through the parents of the store; `proof.py` does the counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from manifests.errors import MillraceError, StoreError
from manifests.records import Json
from packing.proof import Recount, prove
from stores.store import Snapshot, Store
from stores.upkeep.verify import ContentCheck, OnProgress
from tokenization.vocabulary import Vocabulary


def check_packs(packs: Snapshot, on_progress: OnProgress = lambda done, total: None) -> ContentCheck:
    """Recount a packs store and compare it with its plan.

    Nothing is proved where the snapshot is not complete, or where the plan or the vocabulary can't be opened, as after
    a copy to another machine; the result then has the reason.
    """
    if not packs.complete:
        return ContentCheck(skipped="not all packs are in this snapshot: run its node again, then verify")
    try:
        plan = plan_of(packs)
        vocabulary = vocabulary_of(plan)
    except MillraceError as error:
        return ContentCheck(skipped=f"{error.where}: {error.message}; a proof needs the plan and its samples")
    records = packs.counts["records"]
    try:
        counted = prove(packs, plan.meta, vocabulary, show=lambda done: on_progress(done, records))
    except StoreError as error:
        return ContentCheck(failed=f"{error.where}: {error.message}")
    return ContentCheck(proved=tuple(sentences(plan.meta, counted)))


def plan_of(packs: Snapshot) -> Snapshot:
    """The plan that a packs store was made from. Raises StoreError if it can't be opened or is another one now."""
    for parent in packs.parents:
        snapshot = Store.open(parent.url).snapshot(parent.number)
        if snapshot.kind == "plan":
            return snapshot
    raise StoreError("no plan is among the parents of these packs", where=packs.url, fix="run the DAG again")


def vocabulary_of(plan: Snapshot) -> Vocabulary:
    """The vocabulary of a plan, from the file that its samples name.

    Raises:
        StoreError: no samples of the plan can be opened, or none names a vocabulary with the plan's digest.
        ManifestError: the file is missing or no vocabulary.
    """
    wanted = plan.meta["vocabulary"]
    for parent in plan.parents:
        samples = Store.open(parent.url).snapshot(parent.number)
        if samples.meta.get("vocabulary") == wanted and "vocabulary_file" in samples.meta:
            vocabulary = Vocabulary.load(samples.meta["vocabulary_file"])
            if vocabulary.digest == wanted:
                return vocabulary
    raise StoreError(f"no samples name the file of vocabulary {wanted[:12]}", where=plan.url, fix="run the DAG again")


def sentences(plan: Mapping[str, Json], counted: Recount) -> Iterator[str]:
    """One sentence for each promise that a recount without contradiction proves; `plan` is the meta of the plan."""
    forgotten = f", and {counted.forgotten:,} tokens forgotten since" if counted.forgotten else ""
    yield (
        f"{counted.packs:,} packs of plan {plan['plan'][:12]}, in whole global batches of "
        f"{plan['global_batch_packs']:,}: {counted.tokens:,} tokens and {counted.slots:,} vision slots, as many as the "
        f"plan counts in each source{forgotten}"
    )
    if not counted.forgotten:
        share = counted.slots / max(1, counted.tokens)
        yield (
            f"vision share at every prefix: after each pack at most {float(counted.largest_error_slots):,.1f} slots "
            f"from the schedule (allowed: {float(counted.after.one_pack_slots):,.1f}, the slots of one pack); "
            f"{share:.2%} over all packs"
        )
    caps = {source["name"]: source["max_epochs"] for source in plan["sources"]}
    epochs = (f"{name} {max(counts)} of {caps[name]}" for name, counts in sorted(counted.exposures.items()))
    yield f"no token of a sample is shown more often than the max_epochs of its source: {', '.join(epochs)}"
    if plan["max_media_exposures"] is not None:
        most = plan["max_media_exposures"]
        yield f"no image or video is shown more than {most} times: {counted.after.media.most} at most"
    limits = [f"{plan['max_pack_tokens']:,} tokens"]
    limits += [f"{most:,} {name}" for name, most in plan["pack_limits"].items() if most is not None]
    yield f"no pack over its limits: {', '.join(limits)}"
    if plan["segment_align"] > 1:
        yield f"every segment begins at a multiple of {plan['segment_align']} tokens"
    yield (
        "in every pack: segments cover the tokens, media cover the vision slots, padding is outside of segments, no "
        "loss on slots, on padding or on the first token of a segment"
    )
    if amends := plan["amends"]:
        yield (
            f"counted from global batch {amends['at_batch']} on; figures before it are those of plan "
            f"{amends['plan'][:12]}: verify its packs as well"
        )
