"""PPO's learning rate where it is steered by the KL divergence."""

from itertools import islice

import pytest
import torch

import envs
from agents import PPO, OptimConfig, PPOConfig, losses, targets
from tests.contract.support import batches, small


def agent(**settings):
    tasks = envs.make("CartPole-v1", num_envs=2)
    return small(PPO, tasks, **settings), tasks


@pytest.mark.parametrize(
    ("lr", "far", "expected"),
    [
        (1e-3, 0.4, 1.5e-3),
        (1e-3, 0.6, 1e-3),
        (1e-3, 1.9, 1e-3),
        (1e-3, 2.1, 1e-3 / 1.5),
        (9e-3, 0.0, 1e-2),
        (1.2e-5, 9.0, 1e-5),
        (5e-2, 1.0, 5e-2),  # where it began outside it goes no further, nor the wrong way
        (5e-2, 9.0, 5e-2 / 1.5),
        (5e-2, 0.1, 5e-2),
        (1e-6, 0.1, 1.5e-6),
        (1e-6, 9.0, 1e-6),
    ],
)
def test_the_rate_leaves_its_place_only_outside_the_band(lr, far, expected):
    ppo, _ = agent(adaptive_kl=0.01, optim={"lr": lr})
    ppo.steer(far)
    assert ppo.learner.lr == pytest.approx(expected)


def test_the_divergence_comes_to_where_it_is_steered():
    """From a rate a hundred times too low."""
    settings = {"rollout_size": 256, "epochs": 4, "batch_size": 64, "adaptive_kl": 0.01}
    ppo, tasks = agent(**settings, optim={"lr": 1e-5})
    kls = [ppo.update(batch)["kl"] for batch in islice(batches(ppo, tasks), 24)]
    assert kls[0] < 1e-3
    assert 0.003 < sum(kls[-8:]) / 8 < 0.04
    assert ppo.learner.lr > 3e-4


def test_a_round_that_went_too_far_lowers_the_rate_though_it_is_ended_early():
    settings = {"rollout_size": 256, "epochs": 4, "batch_size": 64}
    ppo, tasks = agent(**settings, adaptive_kl=1e-3, target_kl=2e-3, optim={"lr": 1e-2})
    for batch in islice(batches(ppo, tasks), 8):
        ppo.update(batch)
    assert ppo.learner.lr < 6e-3


def test_a_steered_rate_is_resumed():
    ppo, _ = agent(adaptive_kl=0.01)
    ppo.steer(9.0)
    other, _ = agent(adaptive_kl=0.01)
    other.load_state_dict(ppo.state_dict())
    assert other.learner.lr == ppo.learner.lr < ppo.config.optim.lr


def test_a_schedule_and_a_steered_rate_exclude_each_other():
    with pytest.raises(ValueError, match=r"adaptive_kl is 0\.01: use None with a schedule"):
        PPOConfig(adaptive_kl=0.01, optim=OptimConfig(schedule="linear"))
    with pytest.raises(ValueError, match=r"adaptive_kl is 0\.01: .*warmup_steps=0 with it"):
        PPOConfig(adaptive_kl=0.01, optim=OptimConfig(warmup_steps=1000))


def test_with_dropout_a_state_has_one_value(monkeypatch):
    """As the baseline of its own advantage and as what the one before leads to."""
    seen = []
    whole = targets.gae

    def gae(reward, discount, value, next_value, *rest):
        seen.append((value, next_value))
        return whole(reward, discount, value, next_value, *rest)

    monkeypatch.setattr(targets, "gae", gae)
    ppo, tasks = agent(rollout_size=64, network={"hidden_sizes": (16, 16), "dropout": 0.5})
    batch = next(batches(ppo, tasks))
    ppo.update(batch)
    ((value, next_value),) = seen
    follows = ~batch.done[:-1]
    torch.testing.assert_close(value[1:][follows], next_value[:-1][follows])


def test_with_dropout_a_value_is_clipped_about_what_its_mask_made_of_it(monkeypatch):
    seen = []
    whole = losses.clipped_value

    def clipped(value, old_value, *rest):
        seen.append((value - old_value).abs().max())
        return whole(value, old_value, *rest)

    monkeypatch.setattr(losses, "clipped_value", clipped)
    network = {"hidden_sizes": (16, 16), "dropout": 0.5}
    ppo, tasks = agent(rollout_size=64, value_clip=0.01, network=network)
    ppo.update(next(batches(ppo, tasks)))
    assert seen[0] < 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_first_minibatch_has_ratio_one_in_any_precision(precision):
    optim = {"precision": precision}
    ppo, tasks = agent(epochs=1, batch_size=10**6, rollout_size=64, optim=optim)
    metrics = ppo.update(next(batches(ppo, tasks)))
    assert abs(metrics["kl"]) < 1e-10
    assert metrics["clip_fraction"] == 0
