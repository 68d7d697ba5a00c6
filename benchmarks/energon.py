"""Adapter to Megatron-Energon, for benchmarks that read WebDataset tars with it. Runs in Energon's environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def prepare(folder: str) -> None:
    """Write Energon's index next to the tars of `folder`."""
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

    shards = sorted(path.name for path in Path(folder).glob("*.tar"))
    BaseWebdatasetFactory.prepare_dataset(
        folder, shards, split_parts_ratio=[("train", 1.0)], shuffle_seed=None, workers=1
    )
    kind = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    (Path(folder) / ".nv-meta" / "dataset.yaml").write_text(kind)


def loader(
    folder: str,
    batch_size: int,
    cook: Callable[[dict[str, Any]], Any],
    join: Callable[[Sequence[Any]], Any],
    workers: int = 0,
    savable: bool = False,
) -> Any:
    """Loader of one epoch in the order of the tars.

    Args:
        cook: raw sample (extension -> bytes) -> value.
        join: values of a batch -> the batch that the loader yields.
        savable: whether the loader can save and restore its state.
    """
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_savable_loader,
        get_train_dataset,
        stateless,
    )

    @edataclass
    class Cooked(Sample):
        value: Any

    @stateless
    def cooked(sample: dict[str, Any]) -> Cooked:
        return Cooked(**basic_sample_keys(sample), value=cook(sample))

    class Encoder(DefaultTaskEncoder):
        cookers = (Cooker(cook=cooked),)
        decoder = None

        def batch(self, samples: list[Cooked]) -> Any:
            return join([sample.value for sample in samples])

    records = get_train_dataset(
        folder,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=batch_size,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        shuffle_over_epochs_multiplier=None,
        task_encoder=Encoder(),
        repeat=False,
        parallel_shard_iters=1,
    )
    return get_savable_loader(records) if savable else get_loader(records)


if __name__ == "__main__":
    prepare(sys.argv[1])
    print("{}")
