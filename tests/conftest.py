"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _subnormals():
    """Scripts flush them to zero, for the whole process; Hypothesis wants arithmetic as it is."""
    yield
    torch.set_flush_denormal(False)
