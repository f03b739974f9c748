"""No module of the recipes uses a private name of another library, but those that are listed here.

A private name may change with any release: each is used in one module, which has a test of its own for it.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LISTED = {
    "recipes/cli/jsonargparse_internals.py": "tests/recipes/cli/test_jsonargparse_internals.py",
    "recipes/estimate/torch_internals.py": "tests/recipes/estimate/test_torch_internals.py",
    "recipes/sharding/transformers_internals.py": "tests/recipes/sharding/test_transformers_internals.py",
    "recipes/training/lightning_internals.py": "tests/recipes/training/test_lightning_internals.py",
}
"""Each module that may use private names, with the test that they are still there."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def own_names(tree: ast.AST) -> set[str]:
    """The names that a module defines: functions, classes, variables, and attributes set on ``self`` or ``cls``."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            own.add(node.attr)
    return own


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@cache
def inherited_names() -> frozenset[str]:
    """The names that any module of the recipes defines: on ``self`` they may come from a base class."""
    files = (ROOT / "recipes").rglob("*.py")
    return frozenset(name for file in files for name in own_names(ast.parse(file.read_text(encoding="utf-8"))))


def private_names(source: str) -> Iterator[tuple[int, str]]:
    """The private names that a module uses and neither it nor, on ``self``, another one of the recipes defines."""
    tree = ast.parse(source)
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            if not (is_self(node.value) and node.attr in inherited_names()):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if any(map(is_private, alias.name.split("."))):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if any(map(is_private, name.split("."))):
                    yield node.lineno, name
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr", "setattr", "delattr")
            and isinstance(node.args[1], ast.Constant)
            and is_private(str(node.args[1].value))
        ):
            yield node.lineno, ast.unparse(node)


def modules() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.py"))


def test_private_names_of_other_libraries_are_used_in_the_listed_modules_only() -> None:
    found = [
        f"{file}:{line}: {name}"
        for file in modules()
        if file not in LISTED
        for line, name in private_names((ROOT / file).read_text(encoding="utf-8"))
    ]
    assert not found, "private names of other libraries; find a public way or list the module: " + ", ".join(found)


def test_listed_modules_use_private_names_and_have_a_test() -> None:
    for file, test in LISTED.items():
        assert list(private_names((ROOT / file).read_text(encoding="utf-8"))), f"{file} need not be listed any more"
        assert (ROOT / test).is_file(), f"{file} has no test {test}"


def test_nothing_is_patched_outside_of_tests() -> None:
    patching = [file for file in modules() if "unittest" in (ROOT / file).read_text(encoding="utf-8")]
    assert not patching


def test_private_names_are_found_in_each_way_to_use_them() -> None:
    source = """
import torch._C
from torch.utils import _pytree
from torch._subclasses import FakeTensorMode
class Mine(ModelCheckpoint):
    _seen = 0
    def go(self):
        self._mine = self._seen + self.__dict__["x"]
        return self._mine, self._theirs, other._parts, getattr(other, "_hidden"), getattr(other, "__name__")
"""
    assert [name for _, name in private_names(source)] == [
        "torch._C",
        "torch.utils._pytree",
        "torch._subclasses.FakeTensorMode",
        "self._theirs",
        "other._parts",
        "getattr(other, '_hidden')",
    ]
