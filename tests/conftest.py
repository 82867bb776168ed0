"""What holds for every test."""

import hypothesis
import pytest
import torch

# A slow machine is no fault, and a suite that fails says the same when it is run again.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True)
def _draws():
    """What a test draws from torch's own generator does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _subnormals():
    """Scripts flush them to zero, for the whole process; Hypothesis wants arithmetic as it is."""
    yield
    torch.set_flush_denormal(False)
