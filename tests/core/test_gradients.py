"""The gradient statistics are what a plain computation over each layer gives."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.gradients import DORMANT, Statistics
from agents.core.learner import Learner, Step
from agents.core.network import Network, NetworkConfig
from agents.core.optimizers import OptimConfig

OBS = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
HEADS: dict[str, Any] = {"policy": 2, "value": "scalar"}


def build(**options: Any) -> Network:
    config = NetworkConfig((6, 6), activation="relu", **options)
    return Network(spaces.Box(-1, 1, (3,)), HEADS, config)


def loss_of(network: Network):
    def loss(obs: Tensor, scale: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        out = network(obs)
        network(obs[:4] + 5.0)  # a second pass, which is not the one on the batch
        return {"all": scale * (out["policy"][..., 0].square() + out["value"]).mean()}, {}

    return loss


def layers_of(network: Network) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Weights and gradients of each layer; one of a stack has its row of each tensor."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for module in network.modules():
        names = getattr(module, "layer_names", ())
        for i, name in enumerate(names):
            pick = i if len(names) > 1 else ...
            found[name] = [
                (p.detach()[pick].clone(), p.grad[pick].clone())  # type: ignore[index]
                for p in module.parameters()
            ]
    return found


def norm(tensors: list[Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors) ** 0.5


def units(network: Any) -> tuple[dict[str, float], dict[str, float]]:
    """By hand, for each hidden layer: its share of units whose mean |activation| is next to nothing
    beside the others', and the mean norm of what it gives out."""
    config, shares, norms = network.config, {}, {}
    members = ["trunk"] if network.shared else [f"{name}.trunk" for name in HEADS]
    for i, member in enumerate(members):
        x = OBS
        for depth, layer in enumerate(network.trunk):
            stacked = len(members) > 1
            weight, bias = (p[i] if stacked else p for p in (layer.weight, layer.bias))
            h = x @ (weight if stacked else weight.T) + bias.reshape(-1)
            if config.norm == "layer":
                h = F.layer_norm(h, h.shape[-1:])
            h = h.relu()
            activity = h.abs().mean(0)
            shares[f"{member}.{depth}"] = (activity <= DORMANT * activity.mean()).double().mean()
            x = x + h if config.residual and depth else h
            norms[f"{member}.{depth}"] = float(x.detach().double().square().sum(1).sqrt().mean())
    return {name: float(share.detach()) for name, share in shares.items()}, norms


def learn(learner: Learner, loss: Any, *inputs: Any) -> tuple[Step, Statistics]:
    step = learner.minimize(loss, *inputs)
    assert step.record is not None
    return step, learner.statistics.summary([step.record])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_trunk": False},
        {"residual": True},
        {"norm": "layer", "shared_trunk": False, "residual": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_each_column_is_that_of_a_plain_computation(options, limit):
    network = build(**options)
    with torch.no_grad():  # some units fall asleep, without a gradient
        first: Any = network.trunk[0]  # type: ignore[index]
        (first.weight.mT if network.shared else first.weight)[..., :2] = 0.0
        network.trunk[0].bias[..., :2] = -1.0  # type: ignore[index]
    learner = Learner(
        {"net": network}, OptimConfig("sgd", lr=0.1, stats_every=1, max_grad_norm=limit)
    )
    loss, (asleep, norms) = loss_of(network), units(network)
    learner.gradient(loss, OBS)
    before = layers_of(network)
    step, statistics = learn(learner, loss, OBS)
    after = layers_of(network)
    assert set(statistics.layers) == set(before)
    expected: dict[str, list[float]] = {
        name: []
        for name in ("grad_norm", "weight_norm", "update_ratio", "zero_fraction", "feature_norm")
    }
    for name in statistics.layers:
        weights, gradients = map(list, zip(*before[name], strict=True))
        change = [w - v for (w, _), v in zip(after[name], weights, strict=True)]
        zeros = sum(int((g == 0).sum()) for g in gradients)
        expected["grad_norm"].append(norm(gradients))
        expected["weight_norm"].append(norm(weights))
        expected["update_ratio"].append(norm(change) / norm(weights))
        expected["zero_fraction"].append(zeros / sum(g.numel() for g in gradients))
        expected["feature_norm"].append(norms.get(name, float("nan")))
    whole = norm([g for v in before.values() for _, g in v])
    kept = 1.0 if limit is None else min(1.0, limit / whole)
    expected["clipped_grad_norm"] = [kept * size for size in expected["grad_norm"]]
    for column, values in expected.items():
        assert statistics.columns[column] == pytest.approx(values, rel=1e-5, nan_ok=True), column
    assert statistics.columns["dormant"] == pytest.approx(
        [asleep.get(name, float("nan")) for name in statistics.layers], nan_ok=True
    )
    assert max(asleep.values()) > 0.0
    assert max(expected["zero_fraction"]) > 0.0
    assert step.grad_norm == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 100, 101, 250])
@pytest.mark.parametrize("told", ["td_error", "target"])
def test_errors_and_predictions_of_a_critic_are_told_by_their_spread(batch, told):
    generator = torch.Generator().manual_seed(batch)
    network = build()
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    prediction, error = torch.randn(2, batch, generator=generator) * 10.0
    aux = {"prediction": prediction, "td_error": error}
    if told == "target":
        aux = {"prediction": prediction, "target": prediction + error}
    record = learner.step_along(torch.ones_like(learner.flat.vector), {}, aux).record
    assert record is not None
    found = learner.statistics.summary([record]).samples
    size = error.abs().double().numpy()
    expected = {
        "td_error_mean": size.mean(),
        "td_error_p99": np.percentile(size, 99, method="inverted_cdf"),
        "td_error_max": size.max(),
        "value_max": float(prediction.abs().max()),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(record.numbers) < 100  # samples are no part of what is kept


def test_a_loss_that_tells_of_no_critic_has_no_spread():
    network = build()
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    assert all(np.isnan(v) for v in learn(learner, loss_of(network), OBS)[1].samples.values())
    aux = {"prediction": torch.tensor([1.0, -3.0])}
    record = learner.step_along(learner.flat.gradient, {}, aux).record
    assert record is not None
    samples = learner.statistics.summary([record]).samples
    assert samples["value_max"] == 3.0
    assert np.isnan(samples["td_error_max"])


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_cosine_is_that_with_the_gradient_just_before(every):
    network = build()
    learner = Learner({"net": network}, OptimConfig(stats_every=every, max_grad_norm=1e-3))
    loss, previous, seen = loss_of(network), None, 0
    for k, obs in enumerate(OBS.roll(1, 0).split(2), 1):
        learner.gradient(loss, obs)
        gradient = learner.flat.gradient.clone()
        step = learner.minimize(loss, obs)
        assert (step.record is not None) == (k % every == 0)
        if step.record is not None and previous is not None:
            expected = F.cosine_similarity(gradient, previous, dim=0).item()
            cosine = learner.statistics.summary([step.record]).cosine
            assert cosine == pytest.approx(expected, rel=1e-5, abs=1e-7)
            seen += 1
        previous = gradient
    assert seen == 16 // every - (every == 1)


def test_the_first_update_has_no_cosine():
    network = build()
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    assert np.isnan(learn(learner, loss_of(network), OBS)[1].cosine)


def test_the_signal_to_noise_is_that_of_the_corrected_moments_of_adam():
    network = build()
    learner = Learner({"net": network}, OptimConfig(stats_every=1, betas=(0.8, 0.95)))
    m, v = torch.zeros_like(learner.flat.vector), torch.zeros_like(learner.flat.vector)
    for k, obs in enumerate(OBS.split(4), 1):
        learner.gradient(loss_of(network), obs)
        gradient = learner.flat.gradient.clone()
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        expected = (m / (1 - 0.8**k)).square().sum() / (v / (1 - 0.95**k)).sum()
        snr = learn(learner, loss_of(network), obs)[1].snr
        assert snr == pytest.approx(expected.item(), rel=1e-5)


def test_moments_put_back_to_younger_ones_are_corrected_as_these():
    network, other = build(), build()
    learner, fresh = (Learner({"net": net}, OptimConfig(stats_every=1)) for net in (network, other))
    young = learner.state_dict()
    for obs in OBS.split(4):
        learn(learner, loss_of(network), obs)
    learner.load_state_dict(young | {"updates": learner.updates})  # as a rollback does
    step, statistics = learn(learner, loss_of(network), OBS)
    assert step.update == len(OBS.split(4)) + 1
    expected = learn(fresh, loss_of(other), OBS)[1].snr
    assert statistics.snr == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad"])
def test_without_adam_there_is_no_signal_to_noise(optimizer):
    network = build()
    learner = Learner({"net": network}, OptimConfig(optimizer, stats_every=1))
    assert np.isnan(learn(learner, loss_of(network), OBS)[1].snr)


def test_pure_noise_has_the_signal_to_noise_that_the_documentation_gives():
    learner = Learner({"net": nn.Linear(100, 100)}, OptimConfig(stats_every=1))
    generator = torch.Generator().manual_seed(0)
    records = []
    for _ in range(200):
        noise = torch.randn(len(learner.flat.vector), generator=generator)
        records.append(learner.step_along(noise).record)
    statistics = learner.statistics.summary([r for r in records[100:] if r is not None])
    assert statistics.snr == pytest.approx(0.1 / 1.9, rel=0.05)
    assert abs(statistics.cosine) < 0.01


def test_a_summary_is_the_mean_of_its_records():
    network = build(shared_trunk=False)
    learner = Learner({"net": network}, OptimConfig(stats_every=2, lr=0.1))
    steps = [learner.minimize(loss_of(network), obs) for obs in OBS.split(4)]
    records = [step.record for step in steps if step.record is not None]
    singles = [learner.statistics.summary([record]) for record in records]
    whole = learner.statistics.summary(records)
    assert len(records) == 4
    for column, values in whole.columns.items():
        mean = np.mean([single.columns[column] for single in singles], axis=0)
        np.testing.assert_allclose(values, mean, rtol=1e-6)
    assert whole.cosine == pytest.approx(np.mean([single.cosine for single in singles]))
    assert whole.snr == pytest.approx(np.mean([single.snr for single in singles]))


def test_the_mean_cosine_leaves_out_the_first_update_which_has_none():
    network = build()
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    batches = OBS.split(4)[:3]  # the cosines of two are the same sum in any order
    records = [learner.minimize(loss_of(network), obs).record for obs in batches]
    first, *others = (record for record in records if record is not None)
    assert np.isnan(learner.statistics.summary([first]).cosine)
    found = learner.statistics.summary([first, *others]).cosine
    assert found == learner.statistics.summary(others).cosine


def test_summaries_of_groups_are_those_of_each():
    network = build(shared_trunk=False)
    learner = Learner({"net": network}, OptimConfig(stats_every=1, lr=0.1))
    steps = [learner.minimize(loss_of(network), obs) for obs in OBS.split(4)]
    records = [step.record for step in steps if step.record is not None]
    # One of a direction of the agent's own, for which no layer has run.
    learner.statistics.watch()
    learner.statistics.unwatch()
    bare = learner.step_along(torch.ones_like(learner.flat.vector)).record
    assert bare is not None
    groups = [records[:3], [*records[3:5], bare], [bare], records[5:]]
    found = learner.statistics.summaries(groups)
    assert len(found) == len(groups)
    for summary, group in zip(found, groups, strict=True):
        alone = learner.statistics.summary(group)
        for column, values in alone.columns.items():
            assert summary.columns[column] == pytest.approx(values, nan_ok=True), column
        assert summary.cosine == pytest.approx(alone.cosine, nan_ok=True)
        assert summary.snr == pytest.approx(alone.snr)
        assert summary.samples == pytest.approx(alone.samples, nan_ok=True)
    asleep, mixed = found[2].columns["dormant"], found[1].columns["feature_norm"]
    assert np.isnan(asleep).all()
    assert mixed == pytest.approx(
        learner.statistics.summary(records[3:5]).columns["feature_norm"], nan_ok=True
    )


def test_no_record_is_made_when_none_is_asked_for_and_none_changes_a_weight():
    vectors = []
    for every in (0, 1, 3):
        network = build()
        learner = Learner({"net": network}, OptimConfig(stats_every=every))
        steps = [learner.minimize(loss_of(network), obs) for obs in OBS.split(4)]
        assert sum(step.record is not None for step in steps) == (8 // every if every else 0)
        vectors.append(learner.flat.vector)
    assert torch.equal(vectors[0], vectors[1])
    assert torch.equal(vectors[0], vectors[2])


def test_hidden_units_of_a_trunk_of_ones_own_are_watched_and_let_go():
    trunk: Any = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh())
    trunk.out_features = 4
    with torch.no_grad():
        trunk[0].bias[:2] = -100.0
    network = Network(spaces.Box(-1, 1, (3,)), HEADS, trunk=trunk)
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    features = trunk(OBS).detach().norm(dim=1).mean()
    _, statistics = learn(learner, loss_of(network), OBS)
    columns = dict(zip(statistics.layers, statistics.columns["dormant"], strict=True))
    assert columns["trunk.0"] == pytest.approx(0.4)
    assert columns["trunk.2"] == 0.0
    assert np.isnan(columns["value.head"])
    norms = dict(zip(statistics.layers, statistics.columns["feature_norm"], strict=True))
    assert norms["trunk.2"] == pytest.approx(float(features), rel=1e-5)
    assert not any("forward" in vars(module) for module in network.modules())

    def broken(obs: Tensor):
        network(obs)
        raise RuntimeError("a loss that fails")

    with pytest.raises(RuntimeError, match="fails"):
        learner.minimize(broken, OBS)
    assert not any("forward" in vars(module) for module in network.modules())


def test_the_units_of_a_convolution_are_its_channels():
    trunk: Any = nn.Sequential(
        nn.Unflatten(-1, (1, 4, 6)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten()
    )
    trunk.out_features = 8 * 2 * 4
    with torch.no_grad():
        trunk[1].bias[:4], trunk[1].bias[4:] = -100.0, 1.0
    network = Network(spaces.Box(-1, 1, (24,)), HEADS, trunk=trunk)
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    _, statistics = learn(learner, loss_of(network), torch.rand(5, 24))
    columns = dict(zip(statistics.layers, statistics.columns["dormant"], strict=True))
    assert columns["trunk.1"] == pytest.approx(0.5)


def test_members_of_a_convolution_have_feature_norms_of_their_own():
    config = NetworkConfig((8,), conv="minatar", shared_trunk=False, activation="relu")
    network: Any = Network(spaces.Box(-1, 1, (2, 5, 6)), HEADS, config)
    learner = Learner({"net": network}, OptimConfig(stats_every=1))
    obs = torch.rand(7, 60)
    images = network.conv(obs).detach()  # (E, B, features)
    _, statistics = learn(learner, loss_of(network), obs)
    norms = dict(zip(statistics.layers, statistics.columns["feature_norm"], strict=True))
    expected = images.double().square().sum(-1).sqrt().mean(1).tolist()
    assert [norms[f"{head}.trunk.conv.0"] for head in HEADS] == pytest.approx(expected, rel=1e-5)
