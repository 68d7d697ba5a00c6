"""Conversations from documents to batches: never cut, the right words predicted, refusals counted, all of it shown."""

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


def talk(number: int, random: np.random.Generator) -> Conversation:
    """A question with up to three pictures, perhaps a chain of calls that gives pictures, an answer; perhaps more."""

    def text(many: int) -> Text:
        return Text(" ".join(random.choice(WORDS, many)))

    def shown(many: int) -> tuple:
        return tuple(medium(picture(int(random.integers(1 << 30)), 50, 40, "PNG")) for _ in range(many))

    messages = [Message("system", (text(4),))] if number % 3 == 0 else []
    called = 0
    for turn in range(1 + number % 3):
        messages.append(Message("user", (*shown(int(random.integers(0, 4))), text(3), *shown(turn % 2))))
        for _ in range(int(random.integers(0, 3))):
            thinking = text(5).text if random.random() < 0.5 else ""
            messages.append(Message("assistant", (), thinking, (Call("look", NESTED), Call("look", ""))))
            messages.append(Message("tool", shown(2), answers=called))
            messages.append(Message("tool", (), answers=called + 1))
            called += 2
        messages.append(Message("assistant", (text(6),), text(8).text if number % 2 else ""))
    return Conversation(tuple(messages), TOOLS if called else ()).checked()


def said(conversation: Conversation) -> str:
    """What the model has to learn: all that the assistant says, but for messages whose thinking is left out."""
    messages = conversation.messages
    answers = [i for i, one in enumerate(messages[:-1]) if one.role == "assistant" and not one.calls]
    past = answers[-1] + 1 if answers else 0
    words, number = [], 0
    for i, one in enumerate(messages):
        calls = "".join(
            f"<|tool_call_begin|>functions.{call.name}:{number + k}<|tool_call_argument_begin|>{call.arguments}"
            "<|tool_call_end|>"
            for k, call in enumerate(one.calls)
        )
        number += len(one.calls)
        if one.role == "assistant" and not (one.thinking and i < past):
            thinking = f"{one.thinking}</think>" if one.thinking else ""
            content = "".join(part.text for part in one.content if isinstance(part, Text))
            section = f"<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>" if calls else ""
            words.append(f"{thinking}{content}{section}<|im_end|>")
    return "".join(words)


class Talks:
    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(5)
        talks = {record_id("talk", str(i)): talk(i, random) for i in range(60)}
        long = Conversation((Message("user", (Text("go on"),)), Message("assistant", (Text("and on " * 900),))))
        talks[record_id("talk", "long")] = long.checked()
        self.long = record_id("talk", "long")
        documents = write(create(folder, "documents"), (documented(id, one) for id, one in talks.items()))
        self.talks = {one.id: conversation_in(one) for one in documents.records()}
        chat = Chat()
        made = (to_sample(one, tiny, chat) for one in documents.records())
        self.samples = write(create(folder, "samples"), made, [documents], vocabulary=tiny.digest)
        mixture = Mixture(
            sources=(Source(name="talks", store="samples", weight=1.0),),
            max_pack_tokens=1024,
            global_batch_packs=BATCH,
            limits=MediaLimits(max_image_patches=16),
            vision_share=VisionShare(constant=0.065),
        )
        by_source = {"talks": self.samples}
        self.plan, self.packs = planned(folder, mixture, by_source)


def documented(id: str, one: Conversation) -> Document:
    return Document(id, "talk", id, "agent", one.parts, (), one.notes)


def planned(folder: Path, mixture: Mixture, by_source: dict[str, Snapshot]) -> tuple[Snapshot, Snapshot]:
    plan = compile_plan(mixture, by_source, tiny)
    stores = {name: samples.name for name, samples in by_source.items()}
    blocks = write(create(folder, "plan"), plan.blocks, list(by_source.values()), **plan.meta, stores=stores)
    packs = (pack for block in blocks.records() for pack in pack_unit(block, by_source, tiny))
    return blocks, write(create(folder, "packs"), packs, [blocks], **packs_meta(blocks.meta))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Talks:
    return Talks(tmp_path_factory.mktemp("talks"))


def segments(packs: Snapshot) -> Iterator[tuple[str, str]]:
    """(sample, what is predicted in it) of every segment."""
    for pack in packs.records():
        at = 0
        for segment in pack.segments:
            ids, mask = (column[at : at + segment.length] for column in (pack.ids, pack.loss_mask))
            assert segment.start == 0
            assert ids[0] in (tiny.special["<|im_system|>"], tiny.special["<|im_user|>"])
            assert ids[-1] == tiny.special["<|im_end|>"]
            yield segment.sample, tiny.decode(ids[mask])
            at += segment.length


def test_whole_conversations_are_packed_and_exactly_what_the_model_says_is_predicted(talks: Talks) -> None:
    seen = Counter()
    for sample, predicted in segments(talks.packs):
        conversation = talks.talks[sample]
        assert conversation is not None
        assert predicted == said(conversation)
        seen[sample] += 1
    assert set(seen.values()) == {1} and len(seen) > 40


def test_the_batch_asks_for_the_same_words(talks: Talks) -> None:
    """`labels` are what position i predicts, wherever `loss_mask` says so; nothing is predicted of media or results."""
    with Loader(talks.packs, BATCH) as loader:
        packs = talks.packs.records()
        for batch in loader:
            rows = batch.rows(0)
            for i in range(BATCH):
                pack = next(packs)
                targets = np.flatnonzero(pack.loss_mask)
                assert np.array_equal(np.flatnonzero(rows.loss_mask[i]) + 1, targets)
                assert np.array_equal(rows.labels[i][rows.loss_mask[i]], pack.ids[targets])
                assert (rows.labels[i][~rows.loss_mask[i]] == -100).all()


def test_a_conversation_longer_than_a_pack_is_refused_and_counted_where_people_look(talks: Talks) -> None:
    limits = MediaLimits(**talks.plan.meta["limits"])
    gone = {one.id for one in talks.samples.records() if len(expand(one, limits, tiny).ids) > 1024}
    assert talks.long in gone and not gone & {sample for sample, _ in segments(talks.packs)}
    assert talks.plan.meta["sources"][0]["refused"] == {"conversation_longer_than_pack": len(gone)}
    prove(talks.packs, talks.plan.meta, tiny)
    assert plan_statistics(PlanView(talks.plan))["sources"][0]["refused"] == len(gone)


def test_a_step_shows_every_word_and_dims_what_is_not_predicted(talks: Talks) -> None:
    planned = PlanView(talks.plan)
    for step in (planned.steps.start, planned.steps.stop - 1):
        page = step_view.step_page(planned, step)
        shown = [re.sub(r'<span class="dim">.*?</span>', "", one, flags=re.S) for one in blocks_of(page)]
        packs = planned.batch(step, payload=False)
        expected = [talks.talks[segment.sample] for pack in packs for segment in pack.segments]
        assert len(shown) == len(expected)
        for predicted, conversation in zip(shown, expected, strict=True):
            assert conversation is not None
            assert html.unescape(predicted) == said(conversation)
        assert page.count("<figure") == sum(len(pack.media) for pack in packs)


def blocks_of(page: str) -> list[str]:
    return re.findall(r"<pre>(.*?)</pre>", page, re.S)
