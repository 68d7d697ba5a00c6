"""The training loop: packs in training order become weights. `train/command.py` starts it.

    loader's two streams -> encode media -> language model -> mean loss of the targets -> Muon and AdamW -> checkpoint

Media are encoded first, then their features are passed to the rows: the decoupled encoder of the K2.5 report (section
4.5.1) in one process. The report encodes again in the backward pass, because ranks encode for each other; one process
keeps the graph, which gives the same gradient with one pass of the encoder less.

A checkpoint holds everything a step depends on, and sums run in a fixed order on a fixed number of threads: a run that
is killed anywhere and started again has the same losses and weights to the bit.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import torch

from manifests import load
from manifests.errors import ManifestError, MillraceError
from manifests.load import Manifest
from manifests.records import Json, canonical_json
from manifests.runlog import RunLog
from model.canonical import canonical_gradients, canonical_parameters, canonical_state, initialize, load_canonical
from model.config import ModelConfig
from model.multimodal import MultimodalModel
from packing.loader import certificate
from packing.loader.global_batch import ChainLink, GlobalBatch
from packing.loader.loader import DecodeOptions, Loader
from packing.loader.stand_ins import StandIns
from packing.loader.torch_batches import RowTensors, media_to, rows_to
from stores.store import Store
from tokenization.vocabulary import Vocabulary
from train import checkpoint, run_folder
from train.checkpoint import Checkpoint
from train.judge.evaluate import Evaluator, RowFormat
from train.muon import MuonAdamW, clip, newton_schulz_dtype
from train.progress import StepReport, training_progress
from train.stage import Stage


def train(manifest: Manifest[Stage], out: Path) -> Json:
    """Train a stage to its end in the folder `out` and return its `done.json`. A finished folder is not touched.

    Raises:
        ManifestError: the stage can't run; raised before any step.
        ResumeError: the folder belongs to another run.
    """
    stage = manifest.value
    model = load.load(ModelConfig, [stage.model])
    chain = _chain(manifest)
    packs = chain[0][1]
    last_first, last = chain[-1]
    planned = last_first + last.counts["records"] // last.meta["global_batch_packs"]
    if (stage.steps or 1) > planned:
        raise ManifestError(
            f"steps is {stage.steps}, the plan has {planned} global batches",
            where=manifest.where("steps"),
            fix="lower it, leave it out for the whole plan, or plan more tokens",
        )
    steps = stage.steps or planned
    vocabulary = Vocabulary.load(stage.vocabulary)
    for _, link in chain:
        certificate.check(link, vocabulary=vocabulary.digest)
    if vocabulary.digest != packs.meta["vocabulary"]:
        raise ManifestError(
            f"vocabulary {stage.vocabulary} ({vocabulary.digest[:12]}) is not that of the packs "
            f"({packs.meta['vocabulary'][:12]})",
            where=manifest.where("vocabulary"),
            fix="name the vocabulary that the samples were made with",
        )
    evaluator = Evaluator(stage.evaluation, RowFormat.of(packs.meta, vocabulary))
    identity = {
        "packs": packs.content_root,
        "model": model.digest,
        **{name: str(value) for name, value in (("steps", steps), ("seed", stage.seed), ("threads", stage.threads))},
        **_flat("optimizer", stage.optimizer),
        **_flat("schedule", stage.schedule),
        "optimizer.newton_schulz": str(
            newton_schulz_dtype(stage.optimizer)
        ),  # the precision that None selects on this machine
        **(_flat("augment", stage.augment) if stage.augment else {}),
    }
    # A run may be amended at any later batch, so identity holds the first packs only; the loader's cursor knows the
    # rest.
    amended = {f"packs from step {first}": link.content_root for first, link in chain[1:]}
    done = run_folder.finished(out, identity | amended, evaluator.identity)
    if done is not None:
        return done
    with run_folder.locked(out):
        done = run_folder.finished(out, identity | amended, evaluator.identity)  # by the process that held the lock
        if done is None:
            run = TrainingRun(stage, model.value, chain, steps, identity, out)
            run.finish()
            done = {**run.evaluate(evaluator), "identity": identity | amended}
            run_folder.write_json(out / "done.json", done)
    return done


def _chain(manifest: Manifest[Stage]) -> tuple[ChainLink, ...]:
    """Return each packs store with the first global batch that is read from it."""
    urls = manifest.value.packs
    chain: list[ChainLink] = []
    for url in (urls,) if isinstance(urls, str) else urls:
        packs = Store.open(url).head()
        if packs is None or not packs.complete:
            message, fix = "the packs store has no complete snapshot", "let its node finish first"
            raise ManifestError(f"{message}: {url}", where=manifest.where("packs"), fix=fix)
        amends = packs.meta.get("amends")
        fix = "list the packs of all plans of the run in order: [packs, packs_2]"
        if chain and amends is None:
            message = f"these packs amend no other packs: {url}"
            raise ManifestError(message, where=manifest.where("packs"), fix=fix)
        if amends and not chain:
            message = f"these packs amend others at global batch {amends['at_batch']}, which are not listed: {url}"
            raise ManifestError(message, where=manifest.where("packs"), fix=fix)
        chain.append((amends["at_batch"] if amends else 0, packs))
    return tuple(chain)


def _flat(name: str, settings: object) -> dict[str, str]:
    """Return one entry per setting, so that an error can name the one that changed."""
    values = dataclasses.asdict(settings)  # type: ignore[call-overload]
    return {f"{name}.{key}": canonical_json(value) for key, value in values.items()}


class TrainingRun:
    """State between steps: model, optimizer, loader, log. Restored from the newest checkpoint of the folder, if any."""

    def __init__(
        self,
        stage: Stage,
        config: ModelConfig,
        chain: tuple[ChainLink, ...],
        steps: int,
        identity: dict[str, str],
        out: Path,
    ) -> None:
        torch.set_num_threads(stage.threads)
        torch.use_deterministic_algorithms(True)
        # No operation reads memory before writing it, and filling all of it takes a tenth of a small step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(stage.seed)
        self.stage, self.chain, self.steps, self.identity, self.out = stage, chain, steps, identity, out
        self.model = MultimodalModel(config)
        initialize(self.model, stage.seed)
        self.optimizer = MuonAdamW(canonical_parameters(self.model), stage.optimizer)
        self.step = 0
        self.last: Json = None
        """`StepReport` of the last step, as plain values."""
        cursor = None
        saved = checkpoint.load(out / "checkpoints", identity)
        if saved is not None:
            load_canonical(self.model, saved.weights)
            self.optimizer.restore(saved.optimizer, saved.step)
            torch.set_rng_state(saved.random_state)
            self.step, self.last, cursor = saved.step, saved.last, saved.loader
        self.loader = Loader(
            chain,
            chain[0][1].meta["global_batch_packs"],
            state=cursor,
            stand_ins=StandIns(str(out / "stand_ins")),
            decode=DecodeOptions(augment=stage.augment),
        )
        run_folder.drop_steps_after(out / "metrics.jsonl", self.step)
        self.log = RunLog(out / "metrics.jsonl")
        if saved is not None:
            self.log.write("resume", step=self.step)
        for note in self.loader.notes:
            self.log.write("certificate", note=note)

    def finish(self) -> None:
        """Take all remaining steps; save a checkpoint every `checkpoint_every_steps` and after the last."""
        every = self.stage.checkpoint_every_steps
        with self.loader, training_progress(self.step, self.steps) as show:
            while self.step < self.steps:
                start = time.perf_counter()
                batch = next(self.loader)
                report = self.train_step(batch)
                self.last = dataclasses.asdict(report)
                self.log.write("step", **self.last, seconds=round(time.perf_counter() - start, 4))
                show(report)
                for failure in batch.failures:
                    self.log.write("stand_in", step=self.step, **dataclasses.asdict(failure))
                if self.step == self.steps or (every and self.step % every == 0):
                    self.save()

    def train_step(self, batch: GlobalBatch) -> StepReport:
        """Update the weights from one global batch.

        Raises:
            MillraceError: the loss or the gradient norm is not finite.
        """
        rows = rows_to(batch.rows(0), "cpu")
        media = media_to(batch.media(0), rows.ids.shape[1], "cpu")
        features = self.model.encode(media) if media.grids else None
        losses = self.model.losses(rows, features, media.slots if media.grids else None)
        targets = int(rows.loss_mask.sum())
        loss = losses.sum() / max(targets, 1)  # zero targets if every record of the batch was forgotten
        loss.backward()
        gradients = canonical_gradients(self.model)
        norm = clip(gradients, self.stage.optimizer.clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            packs = [link for first, link in self.chain if first <= batch.number][-1]
            raise MillraceError(
                f"the loss is {loss.item()} and the norm of its gradient {norm}",
                where=f"step {self.step + 1}, global batch {batch.number} of {packs.name}",
                fix="lower the learning rates or clip_norm, or look at the batch with `millrace inspect`",
            )
        factor = self.stage.schedule.factor(self.step, self.steps)
        self.optimizer.step(gradients, factor)
        self.model.language_model.update_expert_bias()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.step += 1
        with_media = _segments_with_media(rows, media.slots)
        return StepReport(
            step=self.step,
            loss=loss.item(),
            loss_text=_mean(losses, rows.loss_mask & ~with_media),
            loss_vision=_mean(losses, rows.loss_mask & with_media),
            tokens=batch.tokens,
            slots=len(media.slots),
            targets=targets,
            lr_factor=factor,
            gradient_norm=norm,
        )

    def save(self) -> None:
        """Commit a checkpoint of the present step."""
        state = Checkpoint(
            step=self.step,
            weights=canonical_state(self.model),
            optimizer=self.optimizer.state,
            random_state=torch.get_rng_state(),
            loader=dict(self.loader.state),
            last=self.last,
            identity=self.identity,
        )
        checkpoint.save(self.out / "checkpoints", state, self.stage.keep_checkpoints)
        self.log.write("save", step=self.step)

    def evaluate(self, evaluator: Evaluator) -> Json:
        """Evaluate the finished weights, write `evaluation.json` and return the content of `done.json`."""
        results = evaluator.measure(self.model)
        run_folder.write_json(self.out / "evaluation.json", results)
        self.log.write("evaluate", **results)
        last = self.out / "checkpoints" / f"{self.step:06d}"
        return {
            "weights": checkpoint.file_digest(last / checkpoint.WEIGHTS),
            "checkpoint": str(last.relative_to(self.out)),
            "steps": self.steps,
            "loss": self.last["loss"],
            "evaluation": evaluator.identity,
        }


def _segments_with_media(rows: RowTensors, slots: torch.Tensor) -> torch.Tensor:
    """Mark the positions of segments that hold at least one slot, (R, L) bool."""
    length = rows.ids.shape[1]
    marked = torch.zeros_like(rows.loss_mask)
    filled = marked.flatten().index_fill(0, slots, True).view_as(marked)
    for row, lengths in enumerate(rows.segment_lengths):
        pieces = [*lengths, length - sum(lengths)]  # the last one is padding
        for segment, slots_of_it in zip(marked[row].split(pieces), filled[row].split(pieces), strict=True):
            segment.fill_(bool(slots_of_it.any()))
    return marked


def _mean(losses: torch.Tensor, mask: torch.Tensor) -> float | None:
    count = int(mask.sum())
    return float(losses.detach()[mask].sum()) / count if count else None
