"""The house: which folder may import which, what the package holds, and examples in docstrings that run."""

import ast
import doctest
import functools
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("cli", "pipelines", "modalities", "losses")
LADDER = [
    {"cli", "pipelines.door"},
    {"pipelines.experiments", "pipelines.report"},
    {"pipelines.training", "pipelines.use", "pipelines.evaluation"},
    {"pipelines.runs"},
    {"pipelines.model"},
    {"pipelines.batches"},
    {"pipelines.data"},
    {"pipelines.config"},
    {"pipelines.measures", "pipelines.system"},
    {"losses", "modalities"},
]
"""A folder imports from itself and from those on lower rungs; two on one rung do not know each other."""
KNOW_NOTHING_OF_CLX = {"pipelines.measures", "pipelines.system", "losses", "modalities"}
"""These import from their own folder alone."""
WITHOUT_TORCH = [
    *("clx.pipelines.config.schema", "clx.pipelines.config.load", "clx.pipelines.config.options"),
    *("clx.pipelines.runs.folder", "clx.pipelines.runs.state", "clx.pipelines.runs.listing"),
]
"""Besides all of `data`: a mistyped key or a listing costs a fraction of a second."""


def sources(root: Path) -> list[Path]:
    """Every module of the package, of all depths."""
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def module_of(path: Path, root: Path) -> str:
    """`clx.pipelines.data.splits` for `pipelines/data/splits.py`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(("clx", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def folder_of(module: str) -> str:
    """The folder of the ladder that a module is in: `pipelines.data`, `losses`; nothing for `clx` itself."""
    parts = module.split(".")[1:] or [""]
    return ".".join(parts[:2]) if parts[0] == "pipelines" and len(parts) > 1 else parts[0]


class Read(NamedTuple):
    """What the tests ask of a module's text."""

    froms: set[tuple[str, tuple[str, ...]]]
    """Modules, and what is taken from them; one dot and more for relative ones."""
    named: set[str]
    """Modules imported by name."""
    longest: tuple[int, str]
    """Lines of the longest body of a function, and the function."""


@functools.cache
def read(text: str) -> Read:
    """Of each text once: most files are looked at in several tests."""
    found = Read(set(), set(), (0, ""))
    bodies = [found.longest]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.froms.add((module, tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Import):
            found.named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and called(node).endswith("import_module"):
            found.named.update(str(each.value) for each in node.args if isinstance(each, ast.Constant))
        elif isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            bodies.append(((node.end_lineno or 0) - body[0].lineno, node.name))
    return found._replace(longest=max(bodies))


def called(node: ast.Call) -> str:
    """The last name of what is called: `import_module` of `importlib.import_module(...)`."""
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def imports(path: Path, modules: set[str]) -> set[str]:
    """Every module of `clx` that a file imports, inside functions too.

    Relative imports are of no folder, and so never allowed.
    """
    text = read(path.read_text())
    named = {name for name in text.named if name.split(".")[0] in ("clx", "")}
    for module, names in text.froms:
        if module.startswith("."):
            named.add(module)
        elif module.split(".")[0] == "clx":
            named |= {f"{module}.{name}" for name in names} & modules
            named.add(module)
    return named


def rooms_follow(path: Path, name: str) -> bool:
    """Whether a file takes rooms, and nothing else, from a package: the package itself holds nothing."""
    return any(module == name for module, _ in read(path.read_text()).froms)


def wrong_imports(root: Path) -> list[str]:
    """One line for each import that goes up the ladder or across it, or from a package that has rooms."""
    rung = {folder: number for number, folders in enumerate(LADDER) for folder in folders}
    modules = {module_of(path, root) for path in sources(root)}
    wrong = []
    for path in sources(root):
        here = folder_of(module_of(path, root))
        for name in sorted(imports(path, modules)):
            there = folder_of(name)
            if there == here or (there == "pipelines" and rooms_follow(path, name)):
                continue
            downwards = there in rung and here in rung and rung[there] > rung[here]
            if not downwards or here in KNOW_NOTHING_OF_CLX:
                wrong.append(f"{path.relative_to(root)} imports {name}")
    return wrong


def circles(root: Path) -> list[list[str]]:
    """Modules that import each other, directly or by others, at whatever place in them."""
    modules = {module_of(path, root) for path in sources(root)}
    graph = {module_of(path, root): imports(path, modules) & modules for path in sources(root)}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def test_imports_go_down_the_ladder() -> None:
    assert wrong_imports(ROOT) == []


def test_no_circles() -> None:
    assert circles(ROOT) == []


def test_every_room_is_on_the_ladder() -> None:
    rooms = {folder_of(module_of(path, ROOT)) for path in sources(ROOT)} - {"pipelines"}
    assert rooms == set().union(*LADDER)
    assert [path.name for path in (ROOT / "pipelines").glob("*.py")] == ["__init__.py"]


TESTED_AS_A_WHOLE = {"robustness", "saved"}
"""Folders of tests that are those of no folder of the package."""


def test_folders_of_tests_are_those_of_the_package() -> None:
    tests = ROOT / "tests"
    found = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")} - {"."}
    assert found - TESTED_AS_A_WHOLE <= {path.parent.relative_to(ROOT).as_posix() for path in sources(ROOT)}


PLANTED = {
    "upwards": ("pipelines/data/planted.py", "from clx.pipelines.training import logs\n"),
    "inside a function": (
        "pipelines/config/planted.py",
        "def late():\n    from clx.pipelines.data.splits import load_splits\n    return load_splits\n",
    ),
    "across": ("pipelines/training/planted.py", "import clx.pipelines.evaluation.evaluate\n"),
    "in a folder of a folder": ("pipelines/config/recipes/planted.py", "from clx.pipelines import runs\n"),
    "from the bottom": ("losses/planted.py", "from clx.pipelines.system import errors\n"),
    "relative": ("pipelines/data/planted.py", "from ..training import logs\n"),
    "by name": (
        "pipelines/data/planted.py",
        "import importlib\n\nlogs = importlib.import_module('clx.pipelines.training.logs')\n",
    ),
    "of all rooms": ("pipelines/data/planted.py", "import clx.pipelines as rooms\n"),
    "of everything": ("pipelines/data/planted.py", "from clx import pipelines\n"),
    "to a sibling": ("modalities/planted.py", "from clx.losses.base import Loss\n"),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("house")
    for path in sources(ROOT):
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    return root


@pytest.fixture
def copied(house: Path) -> Iterator[Path]:
    """The house, for a test that adds modules to it."""
    before = set(sources(house))
    yield house
    for path in set(sources(house)) - before:
        path.unlink()


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_import_is_found(case: str, copied: Path) -> None:
    name, text = PLANTED[case]
    (copied / name).write_text(text)
    assert {line.split()[0] for line in wrong_imports(copied)} == {name}


def test_a_planted_circle_is_found(copied: Path) -> None:
    (copied / "losses" / "one.py").write_text("def late():\n    from clx.losses import other\n")
    (copied / "losses" / "other.py").write_text("from clx.losses.one import late\n")
    assert circles(copied) == [["clx.losses.one", "clx.losses.other", "clx.losses.one"]]


def test_what_is_asked_first_does_without_torch() -> None:
    data = [module_of(path, ROOT) for path in (ROOT / "pipelines/data").glob("*.py")]
    code = f"""
import importlib, sys
for name in {[*data, *WITHOUT_TORCH]!r}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_package_is_declared() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in sources(ROOT)}
    assert set(tool["package-dir"].values()) == folders
    names = {f"clx.{f.replace('/', '.')}" for f in folders - {"pipelines/door"}} | {"clx.use"}
    assert set(tool["packages"]) == set(tool["package-dir"]) == names


WITH_EXAMPLES = [path for path in sources(ROOT) if ">>>" in path.read_text()]


def test_examples_are_looked_for_in_every_folder() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in WITH_EXAMPLES} >= {"losses", "pipelines"}


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstring_examples(path: Path) -> None:
    tried = doctest.testmod(importlib.import_module(module_of(path, ROOT)))
    assert tried.attempted
    assert tried.failed == 0


LINES_OF_A_FILE, LINES_OF_A_BODY = 300, 60
"""The body is what follows a function's signature and docstring: a command's signature is its options."""


@pytest.mark.parametrize("path", sources(ROOT), ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    length, name = read(text).longest
    assert length < LINES_OF_A_BODY, name
