"""Whether the package that answers to the name `agents` is this project's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def check() -> None:
    """Raise ImportError if `agents` is another distribution's, which would fail in stranger ways.

    `openai-agents` installs a package of that name too; in one environment, the two overwrite each
    other's files. Nothing of `agents` is imported here.
    """
    spec = find_spec("agents")
    if spec is None:
        return  # envs does not need it
    origin = Path(spec.origin) if spec.origin else None
    if origin is None or "chainrule" not in origin.read_text(encoding="utf-8"):
        raise ImportError(
            f"the package 'agents' at {origin or list(spec.submodule_search_locations or ())} is "
            "not chainrule's: another distribution, such as openai-agents, installs one by that "
            "name. Give chainrule a virtual environment of its own."
        )
