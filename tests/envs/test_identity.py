"""A package `agents` of another distribution is noticed before it does harm."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from envs import _identity

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["agents.py", "agents/__init__.py"])
def foreign(request, tmp_path):
    """A folder with another distribution's `agents` in it, which must not even be imported."""
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('it was imported')\n")
    return tmp_path


@pytest.mark.parametrize("script", [None, *sorted((ROOT / "scripts").glob("train_*.py"))[:1]])
def test_a_foreign_agents_is_refused_with_what_to_do(foreign, script):
    start = f"import runpy; runpy.run_path({str(script)!r})" if script else "import envs"
    program = f"import sys; sys.path[:0] = [{str(foreign)!r}, {str(ROOT)!r}]; {start}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=foreign, timeout=120
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: the package 'agents' at {foreign}")
    for part in ("not chainrule's", "openai-agents", "virtual environment of its own"):
        assert part in last


def test_a_folder_that_happens_to_be_called_agents_is_refused_too(monkeypatch):
    spec = ModuleSpec("agents", None)
    spec.submodule_search_locations = ["/somewhere/agents"]
    monkeypatch.setattr(_identity, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match=r"/somewhere/agents.*not chainrule's"):
        _identity.check()


def test_our_own_agents_and_none_at_all_are_fine(monkeypatch):
    _identity.check()
    monkeypatch.setattr(_identity, "find_spec", lambda name: None)
    _identity.check()
