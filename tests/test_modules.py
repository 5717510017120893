"""How the package's modules hang together."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.cli.run import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "modelhub").rglob("*.py")
}


def imported(name: str) -> set[str]:
    """The modules of the package that the module *name* imports anywhere: at its top, in functions, for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else node.module for each in inside}
    return (found & MODULES.keys()) - {name}


def test_no_module_needs_itself():
    """No chain of imports, lazy ones included, leads from a module back to itself."""
    graph = {name: imported(name) for name in MODULES}
    graph["modelhub"] = set()  # it has its version, and only tells type checkers where its public names come from
    assert graph["modelhub.container.path"] >= {"modelhub.container.open", "modelhub.container.folder"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))
