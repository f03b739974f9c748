"""The imports of the repository: no circle, and every arrow points down.

All imports count, those within functions and those for types alone too.
"""

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("benchmarks", "lightning_adafactor", "recipes", "scripts")

FLOORS: tuple[tuple[str, ...], ...] = (
    ("benchmarks", "scripts"),
    ("recipes.__main__", "recipes.fit", "recipes.compare", "recipes.estimate", "recipes.generate", "recipes.reproduce"),
    ("recipes.cli",),
    ("recipes.language_modeling", "recipes.text_classification"),
    ("recipes.recipe",),
    ("recipes.recipe_data",),
    ("recipes.training",),
    ("recipes.runs",),
    ("recipes.data", "recipes.models", "recipes.optimizers"),
    ("recipes.sharding",),
    ("recipes.checksums", "recipes.ranges", "recipes.resolvers"),
    ("recipes.messages",),
    ("lightning_adafactor",),
    ("lightning_adafactor.gradient_release", "lightning_adafactor.monitor", "lightning_adafactor.prediction"),
    ("lightning_adafactor.transformers_dialect",),
    ("lightning_adafactor.adafactor",),
    ("lightning_adafactor.nonfinite", "lightning_adafactor.work"),
    ("lightning_adafactor.capture",),
    ("lightning_adafactor.parameter_state",),
    ("lightning_adafactor.sharded",),
    ("lightning_adafactor.implementation",),
    ("lightning_adafactor.compiled", "lightning_adafactor.fused"),
    ("lightning_adafactor.plain", "lightning_adafactor.entry_cache", "lightning_adafactor.shard"),
    (
        "lightning_adafactor.arguments",
        "lightning_adafactor.conversion",
        "lightning_adafactor.entry",
        "lightning_adafactor.memory",
    ),
    ("lightning_adafactor.positions", "lightning_adafactor.rounding", "lightning_adafactor.rule"),
    ("lightning_adafactor.tiles",),
)
"""The rooms from top to bottom. A room may import rooms of lower floors, and no other room of its own floor."""

LAZY = "recipes"
"""Its ``__init__`` imports the tasks' classes when they are first asked for. It is the only exception."""


@cache
def modules() -> Mapping[str, Path]:
    """The file of each module, by the module's name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(source: str, known: Set[str]) -> Iterator[str]:
    """The modules of ``known`` that a module's source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import from the package's full name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                target = submodule if submodule in known else str(node.module)
                if target in known:
                    yield target


@cache
def arrows() -> Mapping[str, frozenset[str]]:
    """What each module imports of this repository, but for the lazy classes of ``recipes``."""
    known = modules().keys()
    found = {name: frozenset(imported(file.read_text(encoding="utf-8"), known)) for name, file in modules().items()}
    return {**found, LAZY: frozenset()}


def room(module: str) -> str:
    """The room of a module: the longest name in ``FLOORS`` that is its own or that of a package around it."""
    rooms = [name for floor in FLOORS for name in floor if module == name or module.startswith(f"{name}.")]
    assert rooms, f"{module} is in no room: add it, or the package around it, to FLOORS"
    return max(rooms, key=len)


def floor(module: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if room(module) in names)


def circles(graph: Mapping[str, Set[str]]) -> list[str]:
    """One circle of modules that import each other, as a line, for each module that closes one."""
    found, done = [], set()

    def follow(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                follow(target, [*path, name])
            done.add(name)

    for name in graph:
        follow(name, [])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_imports(package: str) -> None:
    graph = {name: targets for name, targets in arrows().items() if name.split(".")[0] == package}
    assert graph, f"{package} has no modules"
    assert not circles(graph)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_points_to_a_lower_floor(package: str) -> None:
    wrong = [
        f"{name} -> {target}"
        for name, targets in arrows().items()
        if name.split(".")[0] == package
        for target in sorted(targets - {LAZY})
        if room(name) != room(target) and floor(name) >= floor(target)
    ]
    assert not wrong, "upward or sideways imports: " + ", ".join(wrong)


def test_no_room_but_the_top_ones_imports_the_lazy_classes_of_recipes() -> None:
    users = [name for name, targets in arrows().items() if LAZY in targets]
    assert all(room(name) in (*FLOORS[0], *FLOORS[1]) for name in users), users


HEAVY = {"accelerate", "datasets", "matplotlib", "pandas", "sklearn", "tokenizers", "transformers"}
SUBCLASSES = {"recipes.models.mean_pooling"}
"""Modules whose classes derive from those of a heavy library; they are imported where they are used, as it is."""


def test_the_recipes_import_heavy_libraries_only_where_they_are_used() -> None:
    eager = set()
    for name, file in modules().items():
        if not name.startswith("recipes.") or name in SUBCLASSES:
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                eager |= {
                    f"{name} -> {heavy}"
                    for heavy in names
                    if str(heavy) in SUBCLASSES or str(heavy).split(".")[0] in HEAVY
                }
    assert not eager


def test_each_way_to_import_is_found() -> None:
    source = """
import a.b
import elsewhere
from a import c, thing
from a.x.d import thing
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from a.e import Type
def later():
    import a.f
"""
    known = {"a", "a.b", "a.c", "a.e", "a.f", "a.g", "a.x.d"}
    assert sorted(imported(source, known)) == ["a", "a.b", "a.c", "a.e", "a.f", "a.x.d"]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b -> c -> b"]
