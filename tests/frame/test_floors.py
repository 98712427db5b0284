"""The house's floors: imports go down only, stages never import each other, and nothing imports in circles."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vicuna"
STAGES = ("data", "train", "serve", "chat", "eval", "cloud")
SHARED = ("models", "store")
TOP = ("__main__", "quickstart")


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, *, at_import_only: bool = False) -> set[str]:
    """The package's modules that a module imports (anywhere, or only when it is imported itself)."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    nodes = tree.body if at_import_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else str(node.module) for each in inside}
    return {each for each in found if each in MODULES and each != name}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def floor(name: str) -> int:
    if room(name) in TOP:
        return 3
    if room(name) in STAGES:
        return 2
    return 1 if room(name) in SHARED else 0


def test_there_is_something_to_check():
    assert {floor(name) for name in MODULES} == {0, 1, 2, 3}
    assert "vicuna.prompt" in imports("vicuna.train.tokens")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name):
    for other in imports(name):
        assert floor(other) <= floor(name), f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        if floor(name) == floor(other) == 2:
            assert room(name) == room(other), f"stage {room(name)} imports stage {room(other)}: {name} → {other}"


def test_nothing_imports_in_circles():
    graph = {name: imports(name, at_import_only=True) for name in MODULES}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())
