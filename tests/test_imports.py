"""Who may import whom, read from the source: nothing is imported here."""

import ast
import graphlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mnist_jax", "experiments", "benchmarks", "tests")  # each may import those before it
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
PROGRAM = {name: path for name, path in FILES.items() if not name.startswith("tests.")}
ONLY = {  # what is slow to import, or optional, and where it may be imported
    "matplotlib": ("experiments.figures",),
    "tensorflow_datasets": ("mnist_jax.tfds",),
    "torch": (
        "benchmarks.torch_program",
        "experiments.parity",
        "mnist_jax.torch_weights",  # to read what torch.save wrote, where it is installed
    ),
}


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> str | None:
    """Of `a.b.c` the longest part that is a file of the project."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


IMPORTED = {name: set(imported(path)) for name, path in FILES.items()}
GRAPH = {name: {*map(file_of, others)} - {None} for name, others in IMPORTED.items()}
COMMANDS = {
    name
    for name, path in PROGRAM.items()
    if name.startswith("experiments.") and '__name__ == "__main__"' in path.read_text()
}


def test_the_source_is_read():
    assert "mnist_jax.kernels" in GRAPH["mnist_jax.layers"]
    assert "mnist_jax.train" in GRAPH["tests.test_train"]
    assert {"experiments.run", "experiments.compare"} <= COMMANDS


def upwards(rank: Callable[[str], int], names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, other) for name in names for other in GRAPH[name] if rank(other) > rank(name)]


def test_folders_import_downwards():
    assert upwards(lambda name: FOLDERS.index(name.partition(".")[0]), FILES) == []


def test_rooms_of_the_experiments_import_downwards():
    rooms = ("groundwork", "analysis", "figures", "study", "page", "parity")

    def rank(name: str) -> int:
        folder, _, rest = name.partition(".")
        if folder != "experiments":
            return -1
        return len(rooms) if name in COMMANDS else rooms.index(rest.partition(".")[0])

    named = [name for name in PROGRAM if name.startswith("experiments.")]
    assert upwards(rank, named) == []


def test_no_circle_of_files():
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_only_a_command_imports_a_command():
    rooms = PROGRAM.keys() - COMMANDS
    assert [(name, GRAPH[name] & COMMANDS) for name in rooms if GRAPH[name] & COMMANDS] == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_in_one_sitting(name):
    text = FILES[name].read_text()
    lines = text.count("\n")
    assert lines <= (500 if name.startswith("tests.") else 360)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno
            assert lines < 60, node.name


def packages(name: str) -> set[str]:
    return {other.partition(".")[0] for other in IMPORTED[name]}


@pytest.mark.parametrize("package", ONLY)
def test_few_files_import_what_is_slow_or_optional(package):
    users = {name for name in PROGRAM if package in packages(name)}
    allowed = tuple(f"{name}." for name in ONLY[package])
    assert users
    assert {name for name in users if not f"{name}.".startswith(allowed)} == set()


def test_the_library_prints_nothing_parses_no_options_and_has_no_clock():
    for name in PROGRAM:
        if name.startswith("mnist_jax"):
            assert packages(name).isdisjoint({"argparse", "datetime", "rich", "time", "tyro"}), name
            nodes = ast.walk(ast.parse(FILES[name].read_text()))
            assert "print" not in {node.id for node in nodes if isinstance(node, ast.Name)}, name
