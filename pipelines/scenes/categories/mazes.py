"""The category `maze`: find the way, or say how long it is.

Which maze occurs in which split is dealt by `belongs` over its walls, start and goal.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import Sheet, encode, grainy, jittered, tint
from pipelines.scenes.elements.fact_text import fact
from pipelines.scenes.elements.questions import Question, asked_about, number
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

FORMATS = {"png": 0.4, "jpg": 0.4, "webp": 0.2}

MOVES = {"up": (0, -1), "right": (1, 0), "down": (0, 1), "left": (-1, 0)}
MOST_TOLD_MOVES = 16
"""Longer ways are asked for by their length only."""

Cell = tuple[int, int]
"""(column, row)"""

LENGTH = Pool(
    "wording",
    train=(
        "How many steps is the shortest way from the {start} dot to the {goal} dot?",
        "What is the least number of moves from the {start} dot to the {goal} dot?",
    ),
    reserved=("Walking through the maze from {start} to {goal}, how many steps are needed at least?",),
)
WAY = Pool(
    "wording",
    train=(
        "Which moves lead from the {start} dot to the {goal} dot on the shortest way?",
        "Solve the maze: list the moves from the {start} dot to the {goal} dot.",
    ),
    reserved=("Guide me from {start} to {goal} by the shortest way, move by move.",),
)


@dataclass(frozen=True)
class Maze:
    columns: int
    rows: int
    open_ways: frozenset[tuple[Cell, str]]
    """(cell, move) for every pair of neighbours without a wall between them, told from both sides."""
    start: Cell
    goal: Cell

    def shortest(self) -> list[str]:
        """Moves from start to goal, breadth first; of several shortest ways the first in the order of `MOVES`."""
        came: dict[Cell, tuple[Cell, str]] = {}
        queue = deque([self.start])
        while queue:
            cell = queue.popleft()
            for move, (dx, dy) in MOVES.items():
                after = (cell[0] + dx, cell[1] + dy)
                if (cell, move) in self.open_ways and after not in came and after != self.start:
                    came[after] = (cell, move)
                    queue.append(after)
        moves: list[str] = []
        cell = self.goal
        while cell != self.start:
            cell, move = came[cell]
            moves.append(move)
        return moves[::-1]

    def content(self) -> Json:
        """Open ways as text: for each cell, row by row, the first letters of the moves that are free."""
        free = [
            "".join(move[0] for move in MOVES if ((x, y), move) in self.open_ways)
            for y in range(self.rows)
            for x in range(self.columns)
        ]
        return {"columns": self.columns, "rows": self.rows, "free": free, "start": self.start, "goal": self.goal}


def maze(dice: Dice) -> Scene:
    puzzle = dice.until_ours(lambda: _carve(dice), Maze.content)
    way = puzzle.shortest()
    image, colours, cell_px = _draw_maze(dice, puzzle)
    file = encode(dice, image, FORMATS)
    named = {"start": colours[0], "goal": colours[1]}
    moves = fact("way", ", ".join(way))
    form = {"form": "moves", "maze": puzzle.content(), "length": len(way)}
    questions = [Question("maze_length", dice.pick(LENGTH).format(**named), fact("value", len(way)), number(len(way)))]
    if len(way) <= MOST_TOLD_MOVES:
        questions.append(Question("maze_way", dice.pick(WAY).format(**named), moves, form))
    notes: dict[str, Json] = {"maze": puzzle.content(), "way": way, "cell_px": cell_px, "colours": named}
    return asked_about(dice, file, dice.sample(questions, dice.whole(1, len(questions))), notes)


def _carve(dice: Dice) -> Maze:
    """A spanning tree by random walks, depth first, then now and then a few walls less (so that ways can differ)."""
    columns, rows = dice.whole(3, 8), dice.whole(3, 8)
    ways: set[tuple[Cell, str]] = set()
    seen = {(0, 0)}
    stack = [(0, 0)]
    while stack:
        x, y = stack[-1]
        fresh = [
            (move, (x + dx, y + dy))
            for move, (dx, dy) in MOVES.items()
            if 0 <= x + dx < columns and 0 <= y + dy < rows and (x + dx, y + dy) not in seen
        ]
        if not fresh:
            stack.pop()
            continue
        move, after = dice.choice(fresh)
        _open(ways, (x, y), move)
        seen.add(after)
        stack.append(after)
    if dice.chance(0.3):
        for _ in range(dice.whole(1, 4)):
            x, y = dice.whole(0, columns - 2), dice.whole(0, rows - 2)
            _open(ways, (x, y), dice.choice(("right", "down")))
    cells = [(x, y) for y in range(rows) for x in range(columns)]
    start, goal = dice.sample(cells, 2)
    return Maze(columns, rows, frozenset(ways), start, goal)


def _open(ways: set[tuple[Cell, str]], cell: Cell, move: str) -> None:
    dx, dy = MOVES[move]
    back = {"up": "down", "down": "up", "left": "right", "right": "left"}[move]
    ways |= {(cell, move), ((cell[0] + dx, cell[1] + dy), back)}


def _draw_maze(dice: Dice, puzzle: Maze) -> tuple[Image.Image, list[str], dict[str, Json]]:
    """The picture, the colours of start and goal, and where cells lie in pixels."""
    cell = dice.whole(16, 44)
    edge = cell // 3
    dark = dice.chance(0.25)
    coloured = not dark and dice.chance(0.4)
    ink = jittered(dice, dice.choice(("blue", "purple", "green"))) if coloured else tint(dice, not dark)
    sheet = Sheet(puzzle.columns * cell + 2 * edge, puzzle.rows * cell + 2 * edge, tint(dice, dark))
    thick = max(1.5, cell * dice.uniform(0.06, 0.14))
    for y in range(puzzle.rows + 1):
        for x in range(puzzle.columns + 1):
            left, top = edge + x * cell, edge + y * cell
            if (
                x < puzzle.columns
                and ((x, y), "up") not in puzzle.open_ways
                and ((x, y - 1), "down") not in puzzle.open_ways
            ):
                sheet.box((left - thick / 2, top - thick / 2, left + cell + thick / 2, top + thick / 2), ink)
            if (
                y < puzzle.rows
                and ((x, y), "left") not in puzzle.open_ways
                and ((x - 1, y), "right") not in puzzle.open_ways
            ):
                sheet.box((left - thick / 2, top - thick / 2, left + thick / 2, top + cell + thick / 2), ink)
    names = dice.sample(("red", "orange", "cyan", "pink", "yellow"), 2)
    for name, (x, y) in zip(names, (puzzle.start, puzzle.goal), strict=True):
        sheet.circle(edge + (x + 0.5) * cell, edge + (y + 0.5) * cell, 0.3 * cell, jittered(dice, name))
    return grainy(dice, sheet.finish()), names, {"cell": cell, "edge": edge}
