"""The picture of docs/design.md, held against the code: imports, shelves, names and words.

Every guard is a function from sources (path -> text) to breaches. It holds for the tree as it is, and it is tried on a
tree with one planted breach.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "manifests": set(),
    "stores": {"manifests"},
    "tokenization": {"manifests"},
    "packing": {"manifests", "stores", "tokenization"},
    "pipelines": {"manifests", "stores", "tokenization", "packing"},
    "model": {"manifests"},
    "train": {"manifests", "stores", "tokenization", "packing", "model"},
}
HEAVY = ("torch", "megatron", "ray", "dask", "distributed", "transformers")
OWN_LIBRARY: dict[Path, set[str]] = {
    Path("packing/loader/torch_batches.py"): {"torch"},
    Path("pipelines/engines/ray.py"): {"ray"},
    Path("pipelines/engines/dask.py"): {"distributed"},
    Path("stores/files/gcs.py"): set(),
}
"""Files that alone may import something heavy, or of an extra; a caller imports them when it needs them."""
MAX_MODULES = 20
MAX_WHAT_PER_10_000_WORDS = 20
NO_OPENING = re.compile(r"\s*(What|Who|Of|Those|Where)\b")
NO_NAMES = {"told", "said", "some", "gone"}
PRINTS = {
    "millrace.py",
    *(f"pipelines/dag/{part}.py" for part in ("dry_run", "estimate", "execute", "kinds", "summary")),
}
"""Files that print without a `main` of their own: the table of verbs, and the parts of `millrace run`."""

RELEASED_FILES = {"tool_declaration_ts.py", "tokenization_kimi.py"}
"""Files of the Kimi release that docstrings name as sources."""

Sources = dict[Path, str]
Guard = Callable[[Sources], list[str]]


@cache
def tree() -> Sources:
    """Product code."""
    files = [ROOT / "millrace.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]
    return {file.relative_to(ROOT): file.read_text(encoding="utf-8") for file in files}


@cache
def names_of_tests() -> set[str]:
    return {file.name for file in (ROOT / "tests").rglob("*.py")}


@cache
def pages() -> dict[Path, str]:
    """README, CONTRIBUTING and docs."""
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("pipelines/*/README.md"),
    ]
    return {file.relative_to(ROOT): file.read_text(encoding="utf-8") for file in files}


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def imports(file: Path, text: str) -> set[str]:
    """Dotted names of every module a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import; rooms name each other in full"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes and functions, and field docs: (line, text)."""
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def packages(sources: Sources) -> set[Path]:
    return {file.parent for file in sources if file.parent != Path()}


# ---------------------------------------------------------------------- guards


def rooms_import_down(sources: Sources) -> list[str]:
    breaches = []
    for file, text in sources.items():
        room = file.parts[0]
        if room in ROOMS:
            used = {name.split(".")[0] for name in imports(file, text)} & (set(ROOMS) | {"tests", "benchmarks"})
            breaches += [f"{file} imports {name}" for name in sorted(used - ROOMS[room] - {room})]
    return breaches


def proof_shares_no_code_with_the_planner(sources: Sources) -> list[str]:
    proof = Path("packing/proof.py")
    return [f"{proof} imports {name}" for name in imports(proof, sources[proof]) if name.split(".")[0] == "packing"]


def heavy_libraries_stay_in_their_files(sources: Sources) -> list[str]:
    breaches = []
    for file, text in sources.items():
        if file.parts[0] not in ("model", "train"):
            heavy = {name.split(".")[0] for name in imports(file, text)} & set(HEAVY) - OWN_LIBRARY.get(file, set())
            breaches += [f"{file} imports {name}" for name in sorted(heavy)]
    return breaches


def references_are_for_tests(sources: Sources) -> list[str]:
    return [
        f"{file} imports {name}"
        for file, text in sources.items()
        if file.stem != "reference"
        for name in imports(file, text)
        if name.endswith(".reference") and name.split(".")[0] in ROOMS
    ]


def inspection_reads_artifacts(sources: Sources) -> list[str]:
    return [
        f"{file} imports {name}"
        for file, text in sources.items()
        if file.parts[:2] == ("pipelines", "inspect")
        for name in imports(file, text)
        if name.startswith("pipelines.") and not name.startswith("pipelines.inspect")
    ]


def folders_are_small(sources: Sources) -> list[str]:
    modules = defaultdict(list)
    for file in sources:
        if file.name != "__init__.py":
            modules[file.parent].append(file)
    return [f"{folder} holds {len(files)} modules" for folder, files in modules.items() if len(files) > MAX_MODULES]


def folders_import_without_a_circle(sources: Sources) -> list[str]:
    """Nodes are the folders inside a room, and the modules at its top."""
    known = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in sources}

    def place(file: Path) -> str:
        return str(file if len(file.parts) <= 2 else file.parent)

    arrows: dict[str, set[str]] = defaultdict(set)
    for file, text in sources.items():
        for name in imports(file, text):
            target = known.get(name)
            if target is not None and target.parts[0] == file.parts[0] and place(target) != place(file):
                arrows[place(file)].add(place(target))
    return [f"circle through {circle}" for circle in _circles(arrows)]


def _circles(arrows: dict[str, set[str]]) -> list[str]:
    """Strongly connected components of two or more nodes (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            component = sorted(stack[at:])
            del stack[at:]
            if len(component) > 1:
                circles.append(", ".join(component))

    for node in list(arrows):
        if node not in index:
            visit(node)
    return circles


def public_types_are_defined_once(sources: Sources) -> list[str]:
    homes = defaultdict(set)
    for file, text in sources.items():
        for node in parsed(text).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(file)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id  # a type alias: capitalized, and no constant
                if name[0].isupper() and not name.isupper():
                    homes[name].add(file)
    return [
        f"{name} is defined in {', '.join(map(str, sorted(files)))}"
        for name, files in homes.items()
        if len(files) > 1 and not name.startswith("_")
    ]


def file_names_are_unique_in_a_room(sources: Sources) -> list[str]:
    homes = defaultdict(list)
    for file in sources:
        if file.name not in ("__init__.py", "reference.py"):
            homes[file.parts[0], file.name].append(file)
    return [f"{name} stands for {', '.join(map(str, files))}" for (_, name), files in homes.items() if len(files) > 1]


def docstrings_begin_with_a_noun_or_a_verb(sources: Sources) -> list[str]:
    return [
        f"{file}:{line} begins with {found[1]!r}"
        for file, text in sources.items()
        for line, docstring in docstrings(text)
        if (found := NO_OPENING.match(docstring))
    ]


def names_have_a_role(sources: Sources) -> list[str]:
    breaches = []
    for file, text in sources.items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name, line = node.id, node.lineno
            elif isinstance(node, ast.arg):
                name, line = node.arg, node.lineno
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                name, line = node.name, node.lineno
            else:
                continue
            if name.strip("_").lower() in NO_NAMES:
                breaches.append(f"{file}:{line} names something {name}")
    return breaches


def prose_says_the_noun(sources: Sources) -> list[str]:
    """At most 20 of 10,000 words of docstrings, comments and docs are "what", which replaces a missing noun."""
    words = re.findall(r"[A-Za-z']+", " ".join(pages().values()).lower())
    for text in sources.values():
        prose = [docstring for _, docstring in docstrings(text)] + re.findall(r"(?:^|\s)# (.*)", text)
        words += re.findall(r"[A-Za-z']+", " ".join(prose).lower())
    share = 10_000 * words.count("what") / max(1, len(words))
    return [f'"what" stands {share:.0f} times in 10,000 words'] if share > MAX_WHAT_PER_10_000_WORDS else []


def files_named_in_prose_exist(sources: Sources) -> list[str]:
    breaches = []
    for file, text in sources.items():
        prose = [docstring for _, docstring in docstrings(text)] + re.findall(r"(?:^|\s)# (.*)", text)
        for name in re.findall(r"`([\w/]+\.py)`", " ".join(prose)):
            places = (Path(name), file.parent / name, file.parent.parent / name, Path(file.parts[0]) / name)
            there = any(place in sources or (ROOT / place).exists() for place in places) or name in names_of_tests()
            if not there and name not in RELEASED_FILES:
                breaches.append(f"{file} names {name}")
    return breaches


def only_engines_unpickle(sources: Sources) -> list[str]:
    return [
        f"{file} imports {name}"
        for file, text in sources.items()
        if file.parts[:2] != ("pipelines", "engines")
        for name in imports(file, text)
        if name.split(".")[0] in ("pickle", "cloudpickle", "dill", "shelve", "marshal")
    ]


def libraries_do_not_print(sources: Sources) -> list[str]:
    breaches = []
    for file, text in sources.items():
        if str(file) in PRINTS or _is_command(text):
            continue
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                breaches.append(f"{file}:{node.lineno} prints; a library logs")
    return breaches


def _is_command(text: str) -> bool:
    """Whether a module is the command line of a verb: it has a `main(arguments)`."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in parsed(text).body)


def there_is_no_room_for_odds_and_ends(sources: Sources) -> list[str]:
    names = {part for file in sources for part in (*file.parts[:-1], file.stem)}
    return sorted(names & {"utils", "util", "common", "helpers", "misc"})


def child_functions_exist(sources: Sources) -> list[str]:
    """Strings "module:function" name what a child process or a verb's table imports."""
    breaches = []
    for file, text in sources.items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.fullmatch(rf"((?:{'|'.join(ROOMS)})(?:\.\w+)+):(\w+)", node.value)
                if found and found[2] not in _functions(sources, found[1]):
                    breaches.append(f"{file}:{node.lineno} names {node.value}")
    return breaches


def _functions(sources: Sources, module: str) -> set[str]:
    text = sources.get(Path(module.replace(".", "/") + ".py"), "")
    return {node.name for node in parsed(text).body if isinstance(node, ast.FunctionDef)}


BREACHES: dict[Guard, dict[str, str]] = {
    rooms_import_down: {"stores/new.py": "import packing.navit"},
    proof_shares_no_code_with_the_planner: {"packing/proof.py": "from packing.plan import order"},
    heavy_libraries_stay_in_their_files: {"packing/new.py": "def f():\n    import torch"},
    references_are_for_tests: {"packing/new.py": "from packing import reference"},
    inspection_reads_artifacts: {"pipelines/inspect/new.py": "from pipelines.dag import graph"},
    folders_are_small: {f"packing/plan/new_{i}.py": "" for i in range(MAX_MODULES)},
    folders_import_without_a_circle: {
        "stores/files/new_a.py": "from stores.commits import new_b",
        "stores/commits/new_b.py": "def f():\n    import stores.files.new_a",
    },
    public_types_are_defined_once: {"packing/new.py": "class Snapshot: ..."},
    file_names_are_unique_in_a_room: {"pipelines/edits/graph.py": ""},
    docstrings_begin_with_a_noun_or_a_verb: {"stores/new.py": 'def f():\n    """What is left of one record."""'},
    names_have_a_role: {"stores/new.py": "def f(x):\n    told = x"},
    prose_says_the_noun: {"stores/new.py": f'"""Notes. {"It says what is what. " * 400}"""'},
    files_named_in_prose_exist: {"stores/new.py": '"""Names `stores/no_such.py`."""'},
    only_engines_unpickle: {"stores/new.py": "import pickle"},
    libraries_do_not_print: {"stores/new.py": "def f():\n    print(1)"},
    there_is_no_room_for_odds_and_ends: {"stores/utils.py": ""},
    child_functions_exist: {"stores/new.py": "CHECK = 'stores.media.image:no_such_function'"},
}
"""Guard -> files that breach it."""


@pytest.mark.parametrize("guard", BREACHES, ids=lambda guard: guard.__name__)
def test_the_tree_holds(guard: Guard) -> None:
    assert not guard(tree())


@pytest.mark.parametrize("guard", BREACHES, ids=lambda guard: guard.__name__)
def test_a_planted_breach_is_found(guard: Guard) -> None:
    planted = {Path(file): text for file, text in BREACHES[guard].items()}
    assert guard({**tree(), **planted})


# ---------------------------------------------------------------------- what is loaded


@pytest.mark.parametrize("room", ["manifests", "stores", "tokenization", "packing", "pipelines"])
def test_a_light_room_loads_no_heavy_library(room: str) -> None:
    modules = [".".join(f.with_suffix("").parts) for f in tree() if f.parts[0] == room and f not in OWN_LIBRARY]
    code = f"import sys, importlib\nfor m in {modules}: importlib.import_module(m.removesuffix('.__init__'))\n"
    code += f"print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_but_the_standard_library() -> None:
    code = "import sys, millrace; millrace.main(['--help']); print(sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for library in ("numpy", "pyarrow", "pydantic", "yaml", *HEAVY):
        assert f"'{library}'" not in done.stdout


def test_every_folder_of_product_code_says_what_it_holds() -> None:
    for folder in packages(tree()):
        text = tree().get(folder / "__init__.py")
        assert text is not None and ast.get_docstring(parsed(text)), f"{folder}/__init__.py has no docstring"
