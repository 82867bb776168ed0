"""A script is run as a file, from where it finds the packages but no other script."""

import ast
import importlib
import re
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


@pytest.mark.parametrize("name", ["cliff", "deep_sea", "envs", "replay", "speed"])
def test_ctrl_c_ends_a_benchmark_without_a_traceback(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    script = importlib.import_module(f"scripts.benchmark_{name}")
    monkeypatch.setattr(script, "compare", interrupt)
    monkeypatch.setattr(script, "parse", lambda *_: None)
    assert script.main([]) == 130


def test_training_scripts_differ_in_the_agent_alone() -> None:
    """One that lacked what the others do on Ctrl-C would go unseen."""
    bodies = set()
    for script in SCRIPTS:
        if script.stem.startswith("train_"):
            _, body = script.read_text().split("\n", 1)
            (agent,) = re.findall(r"main\((\w+)\)", body)
            bodies.add(re.sub(rf"\b{agent}\b", "AGENT", body))
    (body,) = bodies
    assert "except KeyboardInterrupt" in body


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_imports_envs_before_agents(script: Path) -> None:
    """Else another distribution's `agents` gives a traceback in place of a line that says so."""
    imports = [
        name.split(".")[0]
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    ]
    assert imports.index("envs") < imports.index("agents")
