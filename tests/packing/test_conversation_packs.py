"""Conversations from documents to batches: never cut, only assistant text predicted, refusals counted, all shown."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from manifests.conversation import Call, Conversation, Message, conversation_in
from manifests.geometry import MediaLimits
from manifests.records import Document, Text, record_id
from manifests.schedule import VisionShare
from packing.loader.loader import Loader
from packing.mixture import Mixture, Source
from packing.navit import expand
from packing.pack import pack_unit, packs_meta
from packing.plan.planner import compile_plan
from packing.proof import prove
from pipelines.build.samples import to_sample
from pipelines.inspect import step_view
from pipelines.inspect.plan_stats import plan_statistics
from pipelines.inspect.plan_view import PlanView
from stores.store import Snapshot
from tests.packing.corpus import create, medium, picture, tiny, write
from tokenization.chat import Chat

WORDS = ["red", "Größe", "数字", "\u202eabc", "e\u0301", "👩🏽\u200d🚀", "<|im_end|>", "</think>", "\x00", "a\r\nb"]
NESTED = json.dumps({"a": {"b": [1, {"c": None, "d": "<|tool_call_end|>"}]}, "é": "\u2028"}, ensure_ascii=False)
TOOLS = ({"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}},)
BATCH = 2


def conversation(number: int, random: np.random.Generator) -> Conversation:
    """Up to three turns: a question with up to three pictures, a chain of tool calls, an answer."""

    def text(words: int) -> Text:
        return Text(" ".join(random.choice(WORDS, words)))

    def pictures(count: int) -> tuple:
        return tuple(medium(picture(int(random.integers(1 << 30)), 50, 40, "PNG")) for _ in range(count))

    messages = [Message("system", (text(4),))] if number % 3 == 0 else []
    called = 0
    for turn in range(1 + number % 3):
        messages.append(Message("user", (*pictures(int(random.integers(0, 4))), text(3), *pictures(turn % 2))))
        for _ in range(int(random.integers(0, 3))):
            thinking = text(5).text if random.random() < 0.5 else ""
            messages.append(Message("assistant", (), thinking, (Call("look", NESTED), Call("look", ""))))
            messages.append(Message("tool", pictures(2), answers=called))
            messages.append(Message("tool", (), answers=called + 1))
            called += 2
        messages.append(Message("assistant", (text(6),), text(8).text if number % 2 else ""))
    return Conversation(tuple(messages), TOOLS if called else ()).checked()


def predicted_text(conversation: Conversation) -> str:
    """All assistant text, except messages whose thinking is left out."""
    messages = conversation.messages
    answers = [i for i, message in enumerate(messages[:-1]) if message.role == "assistant" and not message.calls]
    past = answers[-1] + 1 if answers else 0
    texts, number = [], 0
    for i, message in enumerate(messages):
        calls = "".join(
            f"<|tool_call_begin|>functions.{call.name}:{number + k}<|tool_call_argument_begin|>{call.arguments}"
            "<|tool_call_end|>"
            for k, call in enumerate(message.calls)
        )
        number += len(message.calls)
        if message.role == "assistant" and not (message.thinking and i < past):
            thinking = f"{message.thinking}</think>" if message.thinking else ""
            content = "".join(part.text for part in message.content if isinstance(part, Text))
            section = f"<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>" if calls else ""
            texts.append(f"{thinking}{content}{section}<|im_end|>")
    return "".join(texts)


class Made:
    """Sixty-one conversations as documents, samples, plan and packs."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(5)
        conversations = {record_id("talk", str(i)): conversation(i, random) for i in range(60)}
        long = Conversation((Message("user", (Text("go on"),)), Message("assistant", (Text("and on " * 900),))))
        conversations[record_id("talk", "long")] = long.checked()
        self.long = record_id("talk", "long")
        stored = (as_document(id, item) for id, item in conversations.items())
        documents = write(create(folder, "documents"), stored)
        self.conversations = {document.id: conversation_in(document) for document in documents.records()}
        chat = Chat()
        samples = (to_sample(document, tiny, chat) for document in documents.records())
        self.samples = write(create(folder, "samples"), samples, [documents], vocabulary=tiny.digest)
        mixture = Mixture(
            sources=(Source(name="talks", input="samples", weight=1.0),),
            max_pack_tokens=1024,
            global_batch_packs=BATCH,
            media_limits=MediaLimits(max_image_patches=16),
            vision_share=VisionShare(constant=0.065),
        )
        by_source = {"talks": self.samples}
        self.plan, self.packs = plan_and_packs(folder, mixture, by_source)


def as_document(id: str, conversation: Conversation) -> Document:
    return Document(id, "talk", id, "agent", conversation.parts, (), conversation.notes)


def plan_and_packs(folder: Path, mixture: Mixture, by_source: dict[str, Snapshot]) -> tuple[Snapshot, Snapshot]:
    plan = compile_plan(mixture, by_source, tiny)
    stores = {name: samples.name for name, samples in by_source.items()}
    blocks = write(create(folder, "plan"), plan.blocks, list(by_source.values()), **plan.meta, stores=stores)
    packs = (pack for block in blocks.records() for pack in pack_unit(block, by_source, tiny))
    return blocks, write(create(folder, "packs"), packs, [blocks], **packs_meta(blocks.meta))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("conversations"))


def segments(packs: Snapshot) -> Iterator[tuple[str, str]]:
    """(sample, predicted text) of every segment."""
    for pack in packs.records():
        start = 0
        for segment in pack.segments:
            ids, mask = (column[start : start + segment.length] for column in (pack.ids, pack.loss_mask))
            assert segment.start == 0
            assert ids[0] in (tiny.special["<|im_system|>"], tiny.special["<|im_user|>"])
            assert ids[-1] == tiny.special["<|im_end|>"]
            yield segment.sample, tiny.decode(ids[mask])
            start += segment.length


def test_conversations_are_packed_whole_and_exactly_the_assistant_text_is_predicted(made: Made) -> None:
    segments_of = Counter()
    for sample, predicted in segments(made.packs):
        conversation = made.conversations[sample]
        assert conversation is not None
        assert predicted == predicted_text(conversation)
        segments_of[sample] += 1
    assert set(segments_of.values()) == {1} and len(segments_of) > 40


def test_labels_of_a_batch_are_the_targets_of_its_packs(made: Made) -> None:
    """`labels` hold the next id wherever `loss_mask` is set; media and tool results are no targets."""
    with Loader(made.packs, BATCH) as loader:
        packs = made.packs.records()
        for batch in loader:
            rows = batch.rows(0)
            for i in range(BATCH):
                pack = next(packs)
                targets = np.flatnonzero(pack.loss_mask)
                assert np.array_equal(np.flatnonzero(rows.loss_mask[i]) + 1, targets)
                assert np.array_equal(rows.labels[i][rows.loss_mask[i]], pack.ids[targets])
                assert (rows.labels[i][~rows.loss_mask[i]] == -100).all()


def test_a_conversation_longer_than_a_pack_is_refused_and_counted_in_the_statistics(made: Made) -> None:
    limits = MediaLimits(**made.plan.meta["media_limits"])
    too_long = {sample.id for sample in made.samples.records() if len(expand(sample, limits, tiny).ids) > 1024}
    assert made.long in too_long and not too_long & {sample for sample, _ in segments(made.packs)}
    assert made.plan.meta["sources"][0]["refused"] == {"conversation_longer_than_pack": len(too_long)}
    prove(made.packs, made.plan.meta, tiny)
    assert plan_statistics(PlanView(made.plan))["sources"][0]["refused"] == len(too_long)


def test_a_step_page_shows_all_text_and_dims_text_that_is_not_predicted(made: Made) -> None:
    planned = PlanView(made.plan)
    for step in (planned.steps.start, planned.steps.stop - 1):
        page = step_view.step_page(planned, step)
        shown = [re.sub(r'<span class="dim">.*?</span>', "", block, flags=re.S) for block in blocks_of(page)]
        packs = planned.batch(step, payload=False)
        expected = [made.conversations[segment.sample] for pack in packs for segment in pack.segments]
        assert len(shown) == len(expected)
        for predicted, conversation in zip(shown, expected, strict=True):
            assert conversation is not None
            assert html.unescape(predicted) == predicted_text(conversation)
        assert page.count("<figure") == sum(len(pack.media) for pack in packs)


def blocks_of(page: str) -> list[str]:
    return re.findall(r"<pre>(.*?)</pre>", page, re.S)
