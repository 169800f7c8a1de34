"""Public docstrings are contracts: arguments, errors and shapes are named where there are any."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
# Not meant to be called from elsewhere.
LATER = {"deid_diffusion/cli": "commands have no callers but main; their contract is --help"}
# By name in its file: whose contract it has, or why it lacks none.
ELSEWHERE = {
    "evaluation/judges.py:DlibJudge.embed": "evaluation.judges.Judge",
    "evaluation/judges.py:NetJudge.embed": "evaluation.judges.Judge",
    "methods/inpaint.py:Inpaint.__call__": "methods.protocol.Method",
    "methods/k_same.py:KSame.__call__": "methods.protocol.Method",
    "methods/redact.py:Redact.__call__": "methods.protocol.Method",
    "methods/perturb.py:Perturb.__call__": "methods.protocol.Method",
    "methods/pseudonyms.py:PseudonymTargets.choose": "methods.protocol.TargetPolicy",
    "methods/pseudonyms.py:PseudonymTargets.for_person": "methods.targets.PersonTargets",
    "methods/pseudonyms.py:PseudonymTargets.rejection": "methods.protocol.TargetPolicy",
    "methods/swap.py:Swap.__call__": "methods.protocol.Method",
    "methods/swap.py:Swap.policy": "methods.targets.default_policy",
    "methods/swap.py:SwapTarget.choose": "methods.protocol.TargetPolicy",
    "methods/swap.py:SwapTarget.for_person": "methods.targets.PersonTargets",
    "methods/swap.py:SwapTarget.rejection": "methods.protocol.TargetPolicy",
    "methods/targets.py:FreshTargets.for_person": "methods.targets.PersonTargets",
    "methods/targets.py:FreshTargets.choose": "methods.protocol.TargetPolicy",
    "methods/targets.py:FixedTarget.choose": "methods.protocol.TargetPolicy",
    "methods/targets.py:TrackTargets.choose": "methods.protocol.TargetPolicy",
    "models/backends.py:OnnxForward.__call__": "diffusers.UNet2DConditionModel.forward",
    "pipelines/sd_denoiser.py:FaceDenoiser.use_best_attention": "catches what it raises",
    "jobs/urls.py:staged": "catches what it raises",
}
# "(N, 2)", "(B, 3, S, S)", "(..., 2)", "(D + 1,)", "(n, D)", "(bins,)"; a loss is a scalar.
SHAPE = re.compile(r"\((?:[a-z],[^()]*|[a-z]+,|(?:[A-Z\d.]|size)[^()]*,[^()]*)\)|\b(?:any shape|a scalar)\b")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(tree: ast.Module) -> Iterator[tuple[str, Function, str]]:
    """Every public function and method, by its name in the file, and the docstring of its class."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node.name, node, ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            doc = ast.get_docstring(node) or ""
            yield from ((f"{node.name}.{part.name}", part, doc) for part in node.body if isinstance(part, Function))


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node, but for what stands in functions and classes of its own."""
    for part in ast.iter_child_nodes(node):
        if not isinstance(part, Function | ast.ClassDef | ast.Lambda):
            yield part
            yield from own_nodes(part)


def missing(node: Function, of_class: str = "") -> list[str]:
    """What a docstring should say and does not; a class's own may describe what its `__init__` takes."""
    doc = "\n".join(filter(None, (ast.get_docstring(node), of_class if node.name == "__init__" else "")))
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names = [name for name in names if name not in ("self", "cls")]
    first = doc.partition("\n")[0]
    # "(B, 478, 2) crop pixels -> (B, 1, S, S): 1 on cheeks" says it all.
    says_it_all = "->" in first and bool(SHAPE.search(first.partition("->")[0]))
    found = [] if doc or (node.name == "__init__" and len(names) < 2) else ["a docstring"]
    if len(names) > 1 and "Args:" not in doc and not says_it_all:
        found.append("Args:")
    if any(isinstance(part, ast.Raise) and part.exc is not None for part in own_nodes(node)) and "Raises:" not in doc:
        found.append("Raises:")
    if node.returns is not None and re.search("ndarray|Tensor", ast.unparse(node.returns)) and not SHAPE.search(doc):
        found.append("a shape such as (B, 3, S, S)")
    return found


def cases() -> dict[str, tuple[Function, str]]:
    found = []
    for path in sorted([*CHECKOUT.glob("deid_diffusion/**/*.py"), *CHECKOUT.glob("pipelines/*.py")]):
        name = path.relative_to(CHECKOUT).as_posix()
        if not any(name.startswith(f"{folder}/") for folder in LATER):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            short = name.removeprefix("deid_diffusion/")
            found += [(f"{short}:{function}", node, doc) for function, node, doc in public(tree)]
    seen = ("__init__", "__call__")
    return {name: (node, doc) for name, node, doc in found if not node.name.startswith("_") or node.name in seen}


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_a_docstring_says_what_goes_in_and_out(name):
    lacks = missing(*CASES[name])
    if name in ELSEWHERE:
        assert lacks, f"{name} says all by itself now: take it out of ELSEWHERE"
        return
    assert not lacks, f"{name} lacks {', '.join(lacks)}"


def test_exceptions_are_of_functions_that_there_are():
    assert ELSEWHERE.keys() <= CASES.keys()
    assert all((CHECKOUT / folder).is_dir() for folder in LATER)


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("def f(a): ...", ["a docstring"]),
        ("def f(a):\n    'Does.'", []),
        ("def f(a, b):\n    'Does.'", ["Args:"]),
        ("def f(a, b):\n    '(N, 2), (2, 3) -> (N, 2).'", []),
        ("def f(self, a):\n    'Does.'\n    raise ValueError('no')", ["Raises:"]),
        ("def f():\n    'Does.'\n    def g():\n        raise ValueError('no')", []),
        ("def f() -> np.ndarray:\n    'Pixels (of a face).'", ["a shape such as (B, 3, S, S)"]),
        ("def f() -> torch.Tensor:\n    '(B, D) embeddings.'", []),
        ("def f() -> torch.Tensor:\n    'The loss, a scalar.'", []),
        ("def f() -> np.ndarray:\n    '(n,) bool.'", []),
    ],
)
def test_the_rule(code, lacks):
    assert missing(ast.parse(code).body[0]) == lacks


def test_a_class_says_what_its_constructor_takes():
    node = ast.parse("def __init__(self, a, b): ...").body[0]
    assert missing(node) == ["a docstring", "Args:"]
    assert missing(node, "A thing.\n\nArgs:\n    a, b: numbers.") == []
