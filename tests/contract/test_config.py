"""An agent's settings are what their annotations say."""

from dataclasses import fields, replace

import pytest


def test_a_setting_of_another_type_is_refused_by_name(cls):
    default = cls.Config()
    for f in fields(default):
        with pytest.raises(ValueError, match=rf"^{f.name} is .*: (expected|use) "):
            replace(default, **{f.name: object()})
