"""The category `maze`: the shortest path through a maze, or its length.

Walls, start and goal of a maze decide its split (`in_split`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import Canvas, add_grain, encode_image, jittered_color, tint
from pipelines.scenes.elements.fact_text import fact
from pipelines.scenes.elements.questions import Question, number_form, question_scene
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

FORMATS = {"png": 0.4, "jpg": 0.4, "webp": 0.2}

MOVES = {"up": (0, -1), "right": (1, 0), "down": (0, 1), "left": (-1, 0)}
"""Move -> (columns, rows)."""
MAX_LISTED_MOVES = 16
"""Longest path that a question asks for move by move; of longer ones it asks the length."""

Cell = tuple[int, int]
"""(column, row)"""

LENGTH_QUESTIONS = Pool(
    "wording",
    train=(
        "How many steps is the shortest way from the {start} dot to the {goal} dot?",
        "What is the least number of moves from the {start} dot to the {goal} dot?",
    ),
    reserved=("Walking through the maze from {start} to {goal}, how many steps are needed at least?",),
)
PATH_QUESTIONS = Pool(
    "wording",
    train=(
        "Which moves lead from the {start} dot to the {goal} dot on the shortest way?",
        "Solve the maze: list the moves from the {start} dot to the {goal} dot.",
    ),
    reserved=("Guide me from {start} to {goal} by the shortest way, move by move.",),
)


@dataclass(frozen=True)
class Maze:
    """A maze on a grid of cells, with the cells of start and goal."""

    columns: int
    rows: int
    passages: frozenset[tuple[Cell, str]]
    """(cell, move) for every pair of neighbors without a wall between them, in both directions."""
    start: Cell
    goal: Cell

    def shortest(self) -> list[str]:
        """Moves of the shortest path from start to goal, by breadth-first search.

        Of several shortest paths it is the first in the order of `MOVES`.
        """
        reached_from: dict[Cell, tuple[Cell, str]] = {}
        queue = deque([self.start])
        while queue:
            cell = queue.popleft()
            for move, (dx, dy) in MOVES.items():
                neighbor = (cell[0] + dx, cell[1] + dy)
                if (cell, move) in self.passages and neighbor not in reached_from and neighbor != self.start:
                    reached_from[neighbor] = (cell, move)
                    queue.append(neighbor)
        moves: list[str] = []
        cell = self.goal
        while cell != self.start:
            cell, move = reached_from[cell]
            moves.append(move)
        return moves[::-1]

    def content(self) -> Json:
        """The maze as JSON; `free` has one string per cell, row by row: the first letters of the possible moves."""
        free = [
            "".join(move[0] for move in MOVES if ((x, y), move) in self.passages)
            for y in range(self.rows)
            for x in range(self.columns)
        ]
        return {"columns": self.columns, "rows": self.rows, "free": free, "start": self.start, "goal": self.goal}


def maze(rng: SceneRng) -> Scene:
    """Draw a maze and ask for the length of its shortest path, for the path, or for both."""
    puzzle = rng.draw_in_split(lambda: _carve(rng), Maze.content)
    path = puzzle.shortest()
    image, colors, cell_px = _draw_maze(rng, puzzle)
    file = encode_image(rng, image, FORMATS)
    named = {"start": colors[0], "goal": colors[1]}
    moves = fact("way", ", ".join(path))
    form = {"form": "moves", "maze": puzzle.content(), "length": len(path)}
    questions = [
        Question(
            "maze_length", rng.pick(LENGTH_QUESTIONS).format(**named), fact("value", len(path)), number_form(len(path))
        )
    ]
    if len(path) <= MAX_LISTED_MOVES:
        questions.append(Question("maze_way", rng.pick(PATH_QUESTIONS).format(**named), moves, form))
    notes: dict[str, Json] = {"maze": puzzle.content(), "way": path, "cell_px": cell_px, "colors": named}
    return question_scene(rng, file, rng.sample(questions, rng.integer(1, len(questions))), notes)


def _carve(rng: SceneRng) -> Maze:
    """A random maze of 3 to 8 cells per axis: a spanning tree by depth-first search.

    In three of ten mazes one to four more walls are removed, so that several paths can exist.
    """
    columns, rows = rng.integer(3, 8), rng.integer(3, 8)
    passages: set[tuple[Cell, str]] = set()
    visited = {(0, 0)}
    stack = [(0, 0)]
    while stack:
        x, y = stack[-1]
        unvisited = [
            (move, (x + dx, y + dy))
            for move, (dx, dy) in MOVES.items()
            if 0 <= x + dx < columns and 0 <= y + dy < rows and (x + dx, y + dy) not in visited
        ]
        if not unvisited:
            stack.pop()
            continue
        move, neighbor = rng.choice(unvisited)
        _add_passage(passages, (x, y), move)
        visited.add(neighbor)
        stack.append(neighbor)
    if rng.chance(0.3):
        for _ in range(rng.integer(1, 4)):
            x, y = rng.integer(0, columns - 2), rng.integer(0, rows - 2)
            _add_passage(passages, (x, y), rng.choice(("right", "down")))
    cells = [(x, y) for y in range(rows) for x in range(columns)]
    start, goal = rng.sample(cells, 2)
    return Maze(columns, rows, frozenset(passages), start, goal)


def _add_passage(passages: set[tuple[Cell, str]], cell: Cell, move: str) -> None:
    """Add a passage in both directions."""
    dx, dy = MOVES[move]
    back = {"up": "down", "down": "up", "left": "right", "right": "left"}[move]
    passages |= {(cell, move), ((cell[0] + dx, cell[1] + dy), back)}


def _draw_maze(rng: SceneRng, puzzle: Maze) -> tuple[Image.Image, list[str], dict[str, Json]]:
    """Draw the maze.

    Returns:
        (picture, names of the colors of start and goal, side of a cell and width of the margin in pixels)
    """
    cell = rng.integer(16, 44)
    edge = cell // 3
    dark = rng.chance(0.25)
    colored = not dark and rng.chance(0.4)
    ink = jittered_color(rng, rng.choice(("blue", "purple", "green"))) if colored else tint(rng, not dark)
    canvas = Canvas(puzzle.columns * cell + 2 * edge, puzzle.rows * cell + 2 * edge, tint(rng, dark))
    thickness = max(1.5, cell * rng.uniform(0.06, 0.14))
    for y in range(puzzle.rows + 1):
        for x in range(puzzle.columns + 1):
            left, top = edge + x * cell, edge + y * cell
            if (
                x < puzzle.columns
                and ((x, y), "up") not in puzzle.passages
                and ((x, y - 1), "down") not in puzzle.passages
            ):
                canvas.box(
                    (left - thickness / 2, top - thickness / 2, left + cell + thickness / 2, top + thickness / 2), ink
                )
            if (
                y < puzzle.rows
                and ((x, y), "left") not in puzzle.passages
                and ((x - 1, y), "right") not in puzzle.passages
            ):
                canvas.box(
                    (left - thickness / 2, top - thickness / 2, left + thickness / 2, top + cell + thickness / 2), ink
                )
    names = rng.sample(("red", "orange", "cyan", "pink", "yellow"), 2)
    for name, (x, y) in zip(names, (puzzle.start, puzzle.goal), strict=True):
        canvas.circle(edge + (x + 0.5) * cell, edge + (y + 0.5) * cell, 0.3 * cell, jittered_color(rng, name))
    return add_grain(rng, canvas.finish()), names, {"cell": cell, "edge": edge}
