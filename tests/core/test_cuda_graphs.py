"""A recorded loss is the loss: the same numbers for other inputs, recorded once for each shape.

What records is PyTorch's; without a GPU it is replaced by what hands the loss back.
"""

import pytest
import torch
from torch import nn

from agents.core.cuda_graphs import CudaGraphs
from agents.core.learner import Learner
from agents.core.optimizers import OptimConfig

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Fit:
    """A loss with inputs of every kind that losses have."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def loss(self, x, more, absent, scale=1.0):
        assert absent is None
        error = (self.net(x) * scale - more[0]).square().mean()
        return {"fit": error, "size": 0.1 * more[1] * self.net(x).abs().mean()}, {"x": x.mean()}


@pytest.fixture
def recorded(monkeypatch):
    """The modules that were recorded, which are called as they are."""
    found = []

    def record(module, sample, allow_unused_input):
        assert allow_unused_input
        found.append((module, sample))
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return found


def inputs(batch, seed=0, device="cpu"):
    x, y = torch.randn(2, batch, 3, generator=torch.Generator().manual_seed(seed)).to(device)
    return x, [y, y.std()], None


def test_a_loss_is_recorded_once_for_each_shape(recorded):
    net = nn.Linear(3, 3)
    fit, graphs = Fit(net), CudaGraphs({"net": net})
    for seed, batch in enumerate((4, 4, 6, 4)):
        given = inputs(batch, seed)
        terms, aux = graphs(fit.loss, given)
        again, more = fit.loss(*given)
        assert terms == again
        assert aux == more
    assert [len(sample[0]) for _, sample in recorded] == [4, 6]
    weights = {id(p) for p in net.parameters()}
    assert all({id(p) for p in module.parameters()} == weights for module, _ in recorded)


def test_a_number_among_the_inputs_would_be_kept_as_it_was_so_the_loss_is_not_recorded(recorded):
    net = nn.Linear(3, 3)
    fit, graphs = Fit(net), CudaGraphs({"net": net})
    for scale in (1.0, 2.0):
        given = (*inputs(4), scale)
        assert graphs(fit.loss, given) == fit.loss(*given)
    assert not recorded


def test_graphs_are_for_a_gpu_in_full_precision():
    net = nn.Linear(3, 3)
    learner = Learner({"net": net}, OptimConfig(cuda_graphs=True))
    assert not learner.minimize(Fit(net).loss, *inputs(4)).skipped  # on a CPU: as without
    with pytest.raises(ValueError, match=r"optim\.cuda_graphs is True: use it with precision"):
        OptimConfig(cuda_graphs=True, precision="bfloat16")


@needs_a_gpu
def test_on_a_gpu_weights_and_what_is_told_of_them_are_those_of_plain_losses():
    told = []
    for graphs in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).to("cuda")
        learner = Learner({"net": net}, OptimConfig(lr=1e-2, cuda_graphs=graphs, stats_every=4))
        fit, seen = Fit(net), []
        for seed in range(20):
            step = learner.minimize(fit.loss, *inputs(4 + seed % 2, seed, "cuda"))
            seen.append((step.loss, step.grad_norm, step.record is not None))
        told.append((learner.flat.vector.cpu(), seen))
    (plain, before), (replayed, after) = told
    assert torch.allclose(plain, replayed, rtol=1e-5, atol=1e-6)
    assert torch.allclose(torch.tensor(before), torch.tensor(after), rtol=1e-4)
