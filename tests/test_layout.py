"""What travels with a checkpoint is small and flat, and no import goes up or in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modeling_pvc"
TRAVELLING = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# What the files of a folder may import of the package; "" is its top. A folder that is not named here: the top.
FLOORS = {
    "": {""},
    "serving": {"", "inference", "serving"},
    "demo": {"", "inference", "tools", "demo"},
    "tools": {"", "inference", "serving", "training", "tools", "conversion", "demo"},  # demo for the command line
}


def folder_of(name: str) -> str:
    """The folder of a module, given by its name within the package; a subpackage is in its own folder."""
    return name.split(".")[0] if "." in name or (PACKAGE / name).is_dir() else ""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Names within the package that a file imports anywhere, also inside functions; "" is the package itself."""
    found = set()
    above = ["modeling_pvc", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]  # a module, or a name in one
            found |= {name if _file_of(name) else module for name in names}
    return {name.removeprefix("modeling_pvc").lstrip(".") for name in found if name.split(".")[0] == "modeling_pvc"}


def _file_of(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def test_files_that_travel_are_few_and_short():
    assert 0 < len(TRAVELLING) <= 14
    assert all(path.stem.endswith("_pvc") for path in TRAVELLING)
    lengths = {path.name: len(path.read_text().splitlines()) for path in TRAVELLING}
    assert {name: length for name, length in lengths.items() if length > 700} == {}


@pytest.mark.parametrize("package", ["modeling_pvc", "conversion"])
def test_functions_are_short(package):
    long = {}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                length = node.end_lineno - body[0].lineno + 1 if body else 0
                if length > 60:
                    long[f"{path.relative_to(ROOT)}: {node.name}"] = length
    assert long == {}


def test_files_that_travel_import_each_other_by_plain_names():
    """transformers' loader of remote code copies what `from .name import` names, and nothing from folders."""
    for path in TRAVELLING:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "modeling_pvc" for name in names), path.name
            if isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "modeling_pvc"):
                assert (node.level, (PACKAGE / f"{node.module}.py").is_file()) == (1, True), (path.name, node.module)


def test_no_import_goes_up():
    for path in MODULES:
        folder = folder_of(name_of(path))
        allowed = FLOORS.get(folder, {"", folder})
        for name in imports_of(path) - {""}:
            assert folder_of(name) in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_no_circle():
    graph = {name_of(path): imports_of(path) - {"", name_of(path)} for path in MODULES}
    assert sum(map(len, graph.values())) > 20
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_package_needs_nothing_that_stays_in_the_repository():
    """`conversion` is installed beside it and used by the command line alone."""
    for path in MODULES:
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        tops = {
            (node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
        }
        tops |= {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert not tops & {"benchmarks", "examples", "tests"}, path.name
        assert "conversion" not in tops or folder_of(name_of(path)) == "tools", path.name


def test_the_checks_see_imports():
    assert {"budget_pvc", "media_pvc"} <= imports_of(PACKAGE / "processing_pvc.py")
    assert "media_pvc" in imports_of(PACKAGE / "training" / "rows.py")  # from ..media_pvc import
    assert folder_of("budget_pvc") == "" and folder_of("tools.cli") == folder_of("tools") == "tools"
