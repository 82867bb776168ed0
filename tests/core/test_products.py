"""Whichever library multiplies, the product is a float32 one, and PyTorch's settings stay."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from agents import SAC, SACConfig
from agents.core import products
from agents.core.network import NetworkConfig
from envs import make
from tests.contract.support import batches

SETTING: Any = getattr(torch.backends.mkldnn, "matmul", None)
LARGE = products.WORTH + 1
needs_exact = pytest.mark.skipif(
    not products.exact(), reason="oneDNN is not used on this machine's processor"
)


def relative_error(product: Tensor, a: Tensor, b: Tensor) -> float:
    right = a.double() @ b.double()
    return float((product.double() - right).norm() / right.norm())


@needs_exact
@pytest.mark.parametrize(
    "shape", [(64, 17, 256, 1), (256, 256, 256, 1), (256, 400, 300, 2), (300, 512, 6, 5)]
)
def test_a_product_is_as_exact_as_before_whatever_its_shape(shape: tuple[int, ...]) -> None:
    rows, size, columns, stacked = shape
    a, b = torch.randn(stacked, rows, size), torch.randn(stacked, size, columns)
    with products.fast_products(LARGE):
        assert SETTING.fp32_precision == "bf16"
        assert relative_error(a @ b, a, b) < 1e-6
        assert relative_error(a[0] @ b[0], a[0], b[0]) < 1e-6


@needs_exact
def test_the_setting_is_the_users_again_even_after_an_error() -> None:
    before = SETTING.fp32_precision
    with pytest.raises(KeyError), products.fast_products(LARGE):
        raise KeyError
    assert SETTING.fp32_precision == before


@needs_exact
def test_a_small_product_is_left_alone() -> None:
    before = SETTING.fp32_precision
    with products.fast_products(products.WORTH):
        assert SETTING.fp32_precision == before


def test_a_processor_that_would_round_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "exact", lambda: False)
    before = torch.get_float32_matmul_precision(), getattr(SETTING, "fp32_precision", None)
    with products.fast_products(LARGE):
        assert before == (
            torch.get_float32_matmul_precision(),
            getattr(SETTING, "fp32_precision", None),
        )


@needs_exact
def test_a_wide_agent_learns_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make("Pendulum-v1", num_envs=1)
    weights = []
    for largest in (0, LARGE):
        monkeypatch.setattr(SAC, "_largest_product", largest)
        wide = NetworkConfig((256, 256), activation="relu")
        config = SACConfig(network=wide, learning_starts=300, batch_size=256)
        agent = SAC(tasks.observation_space, tasks.action_space, config)
        for batch in islice(batches(agent, tasks), 4):
            agent.learn(batch)
        weights.append(agent.learners["critic"].flat.vector.clone())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert not torch.equal(*weights)  # the other library did multiply


def test_the_largest_product_counts_the_rows_of_a_batch() -> None:
    tasks = make("Pendulum-v1", num_envs=1)
    narrow = NetworkConfig((8, 32), activation="relu")
    config = SACConfig(network=narrow, critic_network=narrow, batch_size=100)
    agent = SAC(tasks.observation_space, tasks.action_space, config)
    assert agent._largest_product == 100 * 8 * 32
