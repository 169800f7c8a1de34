"""Imports point down only, checked on the source of every module."""

import ast
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
# From bottom to top, by the folder or file right below `deid_diffusion/`. Imports go to rows below, or stay at home.
ROWS = [
    "messages",
    "weight_files seeds",
    "types errors timing telemetry privacy",
    "settings imaging",
    "faces",
    "compositing models",
    "methods",
    "spec result clip_result",
    "anonymizer",
    "clip_frames clip_options",
    "clip_reading",
    "clip_tasks",
    "clip_run",
    "video",
    "jobs",
    "hub evaluation training",
    "web",
    "cli",
    "__main__",
]
LAYER = {name: number for number, row in enumerate(ROWS) for name in row.split()}
# The crop level is an island below all; these stand on it.
USES_PIPELINES = {"settings", "faces", "methods", "models", "anonymizer", "hub", "training", "web", "cli"}
# It judges files on disk, so it must not see how they were made.
EVALUATION_SEES = {"types", "errors", "messages", "weight_files", "faces", "evaluation"}
# PIL comes with diffusers; xformers is asked for where it is used, and may be missing.
ISLAND_SEES = {"torch", "numpy", "PIL", "diffusers", "transformers", *sys.stdlib_module_names}
ISLAND_MAY_TRY = {"xformers"}
# Only what must answer at once is held to this: `deid --help` and `import deid_diffusion`.
LIGHT = [
    "__init__.py",
    "telemetry.py",
    "cli/__init__.py",
    "cli/options.py",
    "cli/run.py",
    "cli/train.py",
    "cli/detect.py",
    "cli/eval.py",
    "cli/compare.py",
    "cli/key.py",
    "cli/publish.py",
    "cli/web.py",
]


def sources(folder: str) -> list[Path]:
    return sorted((CHECKOUT / folder).rglob("*.py"))


def imports(path: Path, package: str, top_level_only: bool = False) -> set[str]:
    """Absolute names of all modules that a file imports; `from deid_diffusion import x` counts as deid_diffusion.x."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # What only type checkers read is no dependency at run time.
    hints = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    tree.body = [node for node in tree.body if node not in hints]
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == "deid_diffusion" else {base}
    return names


def ours(path: Path) -> set[str]:
    """First names below deid_diffusion of what a file of the package imports: {"types", "evaluation"}."""
    package = ".".join(path.parent.relative_to(CHECKOUT).parts)
    found = {name.split(".")[1] for name in imports(path, package) if name.startswith("deid_diffusion.")}
    return {name for name in found if name in LAYER or name == "pipelines" or module_exists(name)}


def module_exists(name: str) -> bool:
    place = CHECKOUT / "deid_diffusion" / name
    return place.is_dir() or place.with_suffix(".py").exists()


def unit(path: Path) -> str:
    """The module or package of the table that a file belongs to."""
    return path.relative_to(CHECKOUT / "deid_diffusion").with_suffix("").parts[0]


def modules() -> list[Path]:
    return [path for path in sources("deid_diffusion") if unit(path) not in ("__init__", "__main__", "pipelines")]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CHECKOUT / "deid_diffusion")))
def test_imports_point_down(path):
    own = unit(path)
    assert own in LAYER, f"{own} is not in the table of this file; give it a row"
    for name in ours(path):
        if name == "pipelines":
            assert own in USES_PIPELINES, f"{own} must not import pipelines"
        elif name != own:
            assert name in LAYER, f"{own} imports {name}, which is in no row"
            assert LAYER[name] < LAYER[own], f"{own} (row {LAYER[own]}) must not import {name} (row {LAYER[name]})"


def test_the_evaluation_never_sees_the_anonymizer():
    seen = {name for path in modules() if unit(path) == "evaluation" for name in ours(path)}
    assert seen <= EVALUATION_SEES


def test_nothing_imports_the_command_line_the_tests_or_the_notebooks():
    for path in [*modules(), *sources("pipelines")]:
        names = imports(path, ".".join(path.parent.relative_to(CHECKOUT).parts))
        assert not {name.split(".")[0] for name in names} & {"tests", "notebooks", "benchmarks"}, path
        if "deid_diffusion" in path.parts and unit(path) not in ("cli", "__main__"):
            assert "cli" not in ours(path), path


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda path: path.name)
def test_pipelines_are_an_island(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            may = set() if node in tree.body else ISLAND_MAY_TRY
            assert {alias.name.split(".")[0] for alias in node.names} <= ISLAND_SEES | may
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in ISLAND_SEES
        elif isinstance(node, ast.ImportFrom):
            # The Hub copies siblings by `from .name import x`, one level, and follows no other form.
            assert node.level == 1
            assert node.module
            assert (path.parent / f"{node.module}.py").exists()


@pytest.mark.parametrize("path", [path for path in sources("pipelines") if "DiffusionPipeline" in path.read_text()])
def test_a_pipeline_imports_every_sibling_itself_and_is_alone_in_its_file(path):
    def siblings(of: Path) -> set[str]:
        tree = ast.walk(ast.parse(of.read_text(encoding="utf-8")))
        return {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.level == 1}

    own = siblings(path)
    needed, reached = set(own), set()
    while needed - reached:
        name = (needed - reached).pop()
        reached.add(name)
        needed |= siblings(path.parent / f"{name}.py")
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    pipelines = [node for node in classes if any("Pipeline" in ast.unparse(base) for base in node.bases)]
    assert len(pipelines) <= 1
    if pipelines:
        assert needed == own, f"diffusers copies one level only: also import {sorted(needed - own)} in {path.name}"


@pytest.mark.parametrize("name", LIGHT)
def test_what_must_answer_at_once_imports_only_the_standard_library(name):
    path = CHECKOUT / "deid_diffusion" / name
    package = ".".join(path.parent.relative_to(CHECKOUT).parts)
    foreign = {module.split(".")[0] for module in imports(path, package, top_level_only=True)}
    assert foreign <= {"deid_diffusion", *sys.stdlib_module_names}
    assert not {module for module in imports(path, package, top_level_only=True)} & {"deid_diffusion.jobs.run"}
