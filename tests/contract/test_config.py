"""An agent's settings are what their annotations say."""

from dataclasses import fields, replace
from typing import Any

import pytest

import envs
from tests.contract.support import small, task


def test_a_setting_of_another_type_is_refused_by_name(cls):
    default = cls.Config()
    for f in fields(default):
        with pytest.raises(ValueError, match=rf"^{f.name} is .*: (expected|use) "):
            replace(default, **{f.name: object()})


def test_a_network_that_remembers_is_learned_with_or_refused(cls):
    changes: dict[str, Any] = {
        "network": {"recurrent": "lstm", "dropout": 0.0, "noisy": False},
        "epsilon_start": 0.1,  # Rainbow explores by noise alone
    }
    with envs.make(task(cls), num_envs=2) as tasks:
        if cls.recurrent:
            assert "state" in small(cls, tasks, **changes).actor(2).carried
        else:
            with pytest.raises(ValueError, match=r"^network\.recurrent is 'lstm', and [^\n]*$"):
                small(cls, tasks, **changes)
