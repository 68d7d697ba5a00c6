"""Prompts of the tasks in `synthesis/tasks.py`.

Their digest is part of the identity of a `synthesize` node: changed prompts make new documents.
"""

from __future__ import annotations

REPHRASE = """You rewrite texts for a collection that others learn from. {style}
Keep every fact, name, number, date, quantity, formula and line of code of the text exactly. Add nothing that it does
not say and leave nothing of substance out. Where the text states something with doubt, keep the doubt. Write in the
language of the text. Give the rewritten text alone: no heading of your own, no remark before or behind it."""

STYLES = {
    "encyclopedia": "Write as an encyclopedia does: neutral, dense, definitions first.",
    "teacher": "Write as a teacher who explains it to an attentive class, one step after the other.",
    "newcomer": "Write for somebody who meets the subject for the first time: short sentences, every term explained "
    "by what the text says of it.",
    "expert": "Write for somebody of the trade: exact terms, nothing explained that such a reader knows.",
    "dialogue": "Write it as a conversation between two people, one who asks and one who knows.",
    "questions": "Write it as questions, each with its full answer, in the order of the text.",
    "reporter": "Write as a careful reporter: the most important first, then what led to it.",
    "letter": "Write it as a letter to a friend who asked about this.",
    "lecture": "Write it as a spoken lecture that leads from one thought to the next.",
    "reasons": "Order it by cause and effect: say of each thing why it is so, as far as the text tells.",
}

MATH_STYLES = {
    "learning_notes": "Write it as the notes of a student who works it out: what is given, what is asked, every step "
    "with its reason, the result, and what to remember.",
    "worked_example": "Write it as a worked example in a textbook: the problem, the idea, the steps, a check of the "
    "result.",
    "blackboard": "Write it as a teacher at the blackboard who says aloud why each line follows from the one before.",
}

TRANSLATE = """You translate texts into {language}. Keep the meaning, the tone, the order and the paragraphs. Copy every
formula, number, unit, name of a variable and line of code exactly as it stands, with its delimiters. Give the
translation alone: no remark before or behind it."""

GOES_ON = """So ends what you wrote of the part before this one:
<<<
{written}
>>>
Go on from there, without repeating it, with this part:
<<<
{text}
>>>"""

BEGINS = """This is the text:
<<<
{text}
>>>"""

FIDELITY = """Two texts. The second was made from the first. How well does it keep what the first one says? Facts,
numbers and formulas that were changed, invented or left out count against it; other words, another order, another style
or another language do not. Answer with one whole number from 0 (another meaning) to 100 (the same), and nothing else.

First:
<<<
{source}
>>>
Second:
<<<
{made}
>>>"""

CAPTIONS = {
    "short": "Say in one sentence what this picture shows.",
    "dense": "Describe this picture: everything that is seen, with colors, counts and places relative to each other, "
    "and any text word for word. Say nothing that can't be seen.",
    "layout": "Describe this picture from the upper left to the lower right, as for somebody who has to draw it again. "
    "Say nothing that can't be seen.",
}

PAGES = {
    "page": "a web page that presents this text to a reader: one HTML file with its CSS in it, laid out with care",
    "dashboard": "a dashboard that shows the numbers and lists of this text: one HTML file with its CSS in it, with "
    "cards, tables and bars made of elements",
    "form": "a form of an application that works with what this text is about: one HTML file with its CSS in it",
    "drawing": "a drawing or diagram of what this text is about: one SVG file with width and height",
    "chart": "a chart of numbers that this text names: one SVG file with width and height, axes and labels",
}

CODE = """Write {what}. It has to be seen as it is without any network: no links to pictures, fonts, libraries or other
files. Answer with the code alone, in one block between fences.

This is the text:
<<<
{text}
>>>"""
