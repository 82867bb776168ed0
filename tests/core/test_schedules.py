"""Schedules have their ends, their shape, and torch's values in between."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from agents.core import schedules
from agents.core.optimizers import OptimConfig

RATE = st.floats(0.0, 1.0)


@pytest.mark.parametrize("curve", [schedules.linear, schedules.cosine])
@given(start=RATE, end=RATE, a=st.floats(-2.0, 3.0), b=st.floats(-2.0, 3.0))
def test_a_curve_goes_from_start_to_end_one_way_and_stays(curve, start, end, a, b):
    assert curve(0.0, start, end) == curve(-1.0, start, end) == pytest.approx(start)
    assert curve(1.0, start, end) == curve(5.0, start, end) == pytest.approx(end)
    assert curve(0.5, start, end) == pytest.approx((start + end) / 2)
    early, late = sorted((a, b))
    assert abs(curve(early, start, end) - end) >= abs(curve(late, start, end) - end) - 1e-12


@given(progress=st.floats(0.0, 50.0), low=RATE, high=RATE)
def test_a_cycle_repeats_and_mirrors(progress, low, high):
    value = schedules.cyclical(progress, low, high)
    assert value == pytest.approx(schedules.cyclical(progress + 1.0, low, high), abs=1e-9)
    assert value == pytest.approx(schedules.cyclical(51.0 - progress, low, high), abs=1e-9)
    assert min(low, high) - 1e-12 <= value <= max(low, high) + 1e-12
    assert schedules.cyclical(3.0, low, high) == pytest.approx(low)
    assert schedules.cyclical(3.5, low, high) == pytest.approx(high)


OPTIONS = {
    "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=20),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.03),
    "cyclical": lambda o: lr_scheduler.CyclicLR(o, 0.03, 0.3, 10, cycle_momentum=False),
}


@pytest.mark.parametrize("schedule", OPTIONS)
@pytest.mark.parametrize("steps", [None, 20_000])
def test_the_learning_rate_is_that_of_torch(schedule, steps):
    """One step of torch's scheduler is a thousand of the environments here."""
    config = OptimConfig(lr=0.3, schedule=schedule, final_lr=0.03, schedule_steps=steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = OPTIONS[schedule](optimizer)
    for t in range(21):
        expected = optimizer.param_groups[0]["lr"]
        planned = 20_000 if steps is None else 77
        assert config.lr_at(1000 * t, planned) == pytest.approx(expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step of the optimiser came before
            scheduler.step()


def test_warm_up_rises_to_its_value_and_multiplies_the_schedule():
    factors = [schedules.warm_up(step, 4) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert schedules.warm_up(0, 0) == 1.0
    plain = OptimConfig(lr=0.3, schedule="cosine", schedule_steps=8)
    warm = OptimConfig(lr=0.3, schedule="cosine", schedule_steps=8, warmup_steps=4)
    for step, factor in enumerate(factors):
        assert warm.lr_at(step, None) == pytest.approx(factor * plain.lr_at(step, None))
