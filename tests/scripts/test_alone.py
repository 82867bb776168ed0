"""A script is run as a file, from where it finds the packages but no other script."""

import ast
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_imports_no_other(script: Path) -> None:
    names = {other.stem for other in SCRIPTS} | {"scripts"}
    for node in ast.walk(ast.parse(script.read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not {module.split(".")[0] for module in modules} & names
