"""The residual, layer-normalised trunk is what SimBa says, alone and as a stack."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.blocks import ACTIVATIONS
from agents.core.learner import Learner
from agents.core.network import Head, Network, NetworkConfig
from agents.core.optimizers import OptimConfig

BOX = spaces.Box(-1, 1, (5,))
WIDTH = 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OBS = torch.randn(7, 5, generator=generator(1))


def build(heads: Any = None, **options: Any) -> Any:
    config: dict[str, Any] = {"hidden_sizes": (WIDTH, WIDTH), "block": "simba", **options}
    heads = heads or {"policy": 4, "value": "scalar"}
    network = Network(BOX, heads, NetworkConfig(**config))
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):  # no bias of 0, no scale of 1
            p.data += 0.3 * torch.randn(p.shape, generator=generator(i))
    return network


def features(network: Any, obs: Tensor, member: int | None) -> Tensor:
    """By PyTorch's own layers, one member after the other."""

    def dense(layer: Any, x: Tensor) -> Tensor:
        if member is None:
            return F.linear(x, layer.weight, layer.bias)
        return F.linear(x, layer.weight[member].T, layer.bias[member, 0])

    def norm(layer: Any, x: Tensor) -> Tensor:
        own = nn.LayerNorm(WIDTH)
        scale, shift = layer.norm_scale, layer.norm_bias
        if member is not None:
            scale, shift = scale[member, 0], shift[member, 0]
        own.weight.data, own.bias.data = scale.detach(), shift.detach()
        return own(x)

    projection, *blocks, last = network.trunk
    x = dense(projection, obs)
    for block in blocks:
        h = ACTIVATIONS[network.config.activation](dense(block.inner, norm(block.norm, x)))
        x = x + dense(block.outer, h)
    return norm(last, x)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
def test_the_output_is_what_the_paper_says(shared, activation, lead):
    network = build({"q": Head(None, members=3), "policy": 4}, shared_trunk=shared)
    obs = torch.randn(*lead, 5, generator=generator(2))
    out = network(obs)
    for k in range(3):
        x, head = features(network, obs, None if shared else k), network.heads["q"]
        q = F.linear(x, head.weight[k].T, head.bias[k, 0]).squeeze(-1)
        torch.testing.assert_close(out["q"][k], q)
    x, head = features(network, obs, None if shared else 3), network.heads["policy"]
    torch.testing.assert_close(out["policy"], F.linear(x, head.weight, head.bias))


def test_a_block_is_four_times_as_wide_inside_and_there_is_one_for_each_size():
    network = build(hidden_sizes=(WIDTH,) * 3)
    assert len(network.trunk) == 5
    assert all(block.inner.weight.shape == (4 * WIDTH, WIDTH) for block in network.trunk[1:-1])


def test_it_begins_with_the_gains_of_the_paper():
    """He for what an activation follows, orthogonal for the projection: variances by hand."""
    wide = NetworkConfig((256,), block="simba", init="he")
    network: Any = Network(spaces.Box(-1, 1, (300,)), {"q": 2}, wide)
    projection, block, last = network.trunk
    assert float(projection.weight.detach().var()) == pytest.approx(1 / 300, rel=0.05)
    assert float(block.inner.weight.detach().var()) == pytest.approx(2 / 256, rel=0.05)
    assert float(block.outer.weight.detach().var()) == pytest.approx(2 / 1024, rel=0.05)
    assert last.norm_scale.eq(1).all()
    assert last.norm_bias.eq(0).all()


@pytest.mark.parametrize("shared", [True, False])
def test_dropout_drops_units_of_what_the_blocks_add(shared):
    network = build(dropout=0.5, shared_trunk=shared)
    noise = network.sample_noise((7,), generator())
    assert [u.shape for u in noise] == [(7, WIDTH) if shared else (7, 2, WIDTH)] * 2
    block = network.trunk[1]
    x = torch.randn(WIDTH, 7, WIDTH)[: 1 if shared else 2].squeeze(0)
    u = torch.rand(x.shape, generator=generator(3))
    added, full = block(x, u) - x, block(x) - x
    torch.testing.assert_close(added, torch.where(u < 0.5, 0.0, 2 * full))
    assert not network(OBS, noise)["policy"].equal(network(OBS)["policy"])


def test_every_layer_has_its_name_and_the_units_inside_are_watched():
    network = build({"q": Head(None, members=2)}, shared_trunk=False)
    learner = Learner({"critics": network}, OptimConfig(stats_every=1))
    parts = ["projection", "0.inner", "0.outer", "1.inner", "1.outer", "norm"]
    names = {f"{k}.q.trunk.{part}" for k in (0, 1) for part in parts} | {"0.q.head", "1.q.head"}
    assert set(learner.statistics.layers) == names
    assert learner.flat.decaying == 2 * (5 * WIDTH + 2 * (2 * 4 * WIDTH * WIDTH) + WIDTH)
    with torch.no_grad():
        network.trunk[1].inner.bias[1] = -100.0  # a layer of tanh at -1: none of them is asleep
        network.trunk[2].inner.weight[1, :, ::2] = 0.0  # half the units of the other say nothing
        network.trunk[2].inner.bias[1, :, ::2] = 0.0
    step = learner.minimize(lambda: ({"q": network(OBS)["q"].square().mean()}, {}))
    assert step.record is not None
    summary = learner.statistics.summary([step.record])
    dormant = dict(zip(summary.layers, summary.columns["dormant"], strict=True))
    assert dormant["1.q.trunk.0.inner"] == 0.0
    assert dormant["1.q.trunk.1.inner"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"norm": "layer"}, r"network.norm is 'layer'"),
        ({"residual": True}, r"network.residual is True"),
        ({"noisy": True}, r"network.noisy is True"),
        ({"hidden_sizes": (8, 16)}, r"hidden_sizes is \(8, 16\)"),
        ({"hidden_sizes": ()}, r"hidden_sizes is \(\)"),
    ],
)
def test_what_makes_no_sense_together_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        build(**options)
