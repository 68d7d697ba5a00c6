"""Catalogue of all kinds of nodes: `kind:` in a manifest -> class, whose fields are the node's keys.

`dag/graph.py` makes the schema of manifests from it. To add a kind, write a class on one of the bases of `node.py` and
add a line here. `millrace run --kinds` prints the catalogue.
"""

from __future__ import annotations

from pipelines.build.commands import Report, Train
from pipelines.build.materialize import Materialize
from pipelines.build.packs import PackNode
from pipelines.build.plan import PlanNode
from pipelines.build.samples import Tokenize
from pipelines.build.vocabulary import LearnVocabulary
from pipelines.dedup.decontaminate import Decontaminate
from pipelines.dedup.exact import DedupExact
from pipelines.dedup.images import DedupImages, ImageHash
from pipelines.dedup.minhash import DedupMinHash, MinHash
from pipelines.edits.transform import Transform
from pipelines.filters.cap import Cap
from pipelines.filters.filter import Filter
from pipelines.filters.watermarks import DropWatermarks, WatermarkVotes
from pipelines.ingest.folder import IngestFolder
from pipelines.ingest.hub import IngestHub
from pipelines.ingest.repository import IngestRepository
from pipelines.ingest.scenes import IngestScenes
from pipelines.ingest.stdlib import IngestStdlib
from pipelines.ingest.store import IngestStore
from pipelines.ingest.tars.adopt import IngestTars
from pipelines.scenes.generate import Scenes
from pipelines.scoring.endpoints import ScoreAgreement, ScoreEndpoint
from pipelines.scoring.models import ScoreFastText, ScoreFunction
from pipelines.synthesis.augment import Augment
from pipelines.synthesis.render import Render
from pipelines.synthesis.synthesize import Synthesize

NODES: dict[str, type] = {
    "scenes": Scenes,
    "ingest_scenes": IngestScenes,
    "ingest_folder": IngestFolder,
    "ingest_hub": IngestHub,
    "ingest_repository": IngestRepository,
    "ingest_stdlib": IngestStdlib,
    "ingest_store": IngestStore,
    "ingest_tars": IngestTars,
    "filter": Filter,
    "score_function": ScoreFunction,
    "score_fasttext": ScoreFastText,
    "score_endpoint": ScoreEndpoint,
    "score_agreement": ScoreAgreement,
    "dedup_exact": DedupExact,
    "minhash": MinHash,
    "dedup_minhash": DedupMinHash,
    "image_hash": ImageHash,
    "dedup_images": DedupImages,
    "watermark_votes": WatermarkVotes,
    "drop_watermarks": DropWatermarks,
    "decontaminate": Decontaminate,
    "cap": Cap,
    "materialize": Materialize,
    "transform": Transform,
    "augment": Augment,
    "synthesize": Synthesize,
    "render": Render,
    "learn_vocabulary": LearnVocabulary,
    "tokenize": Tokenize,
    "plan": PlanNode,
    "pack": PackNode,
    "train": Train,
    "report": Report,
}
