"""Every test that asks for `cls` runs once for each registered agent."""

import pytest

from agents import AGENTS


@pytest.fixture(params=AGENTS.values(), ids=list(AGENTS))
def cls(request):
    """The class of an agent."""
    return request.param
