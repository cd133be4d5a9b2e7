"""Learning rates over the steps, and schedules that are shortened."""

import keras
import pytest

from tf_hessian.training import schedules

CONFIG = {
  "learning_rate": 0.1,
  "schedule": "constant",
  "decay_steps": (),
  "decay_factor": 0.1,
  "zero_steps": 0,
}


def rates(steps, **changes):
  schedule = schedules.learning_rate(CONFIG | changes)
  return [float(schedule(step)) for step in steps]


def test_constant_rate_stays():
  assert rates([0, 1, 100_000]) == pytest.approx([0.1] * 3)


def test_rate_is_divided_from_each_named_step_on():
  found = rates(
    [0, 39_999, 40_000, 59_999, 60_000, 80_000],
    schedule="steps",
    decay_steps=(40_000, 60_000, 80_000),
  )
  assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.0001])


def test_exponential_rate_falls_smoothly():
  found = rates([0, 50, 100, 200], schedule="exponential", decay_steps=(100,), decay_factor=0.94)
  assert found == pytest.approx([0.1, 0.1 * 0.94**0.5, 0.1 * 0.94, 0.1 * 0.94**2])


@pytest.mark.parametrize("schedule, steps", [("constant", ()), ("steps", (500,))])
def test_first_steps_may_have_no_rate(schedule, steps):
  found = rates([0, 399, 400, 600], schedule=schedule, decay_steps=steps, zero_steps=400)
  assert found == pytest.approx([0, 0, 0.1, 0.1 if schedule == "constant" else 0.01])


def test_delayed_schedule_is_saved_with_its_optimizer():
  schedule = schedules.learning_rate(CONFIG | {"zero_steps": 3})
  optimizer = keras.optimizers.SGD(schedule)
  found = keras.optimizers.SGD.from_config(optimizer.get_config())
  assert [float(found._learning_rate(step)) for step in (2, 3)] == pytest.approx([0, 0.1])


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"schedule": "step"}, "config.train.schedule: expected one of constant, steps, exponential"),
    ({"schedule": "steps"}, "config.train.decay_steps: expected ascending steps"),
    ({"schedule": "steps", "decay_steps": (2, 1)}, "ascending steps, got \\[2, 1\\]"),
    ({"schedule": "exponential"}, "expected one number of steps, got \\[\\]"),
  ],
)
def test_schedule_that_does_not_fit_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    schedules.learning_rate(CONFIG | changes)


def test_shorter_schedule_keeps_its_shape_and_the_steps_without_learning():
  config = {
    "steps": 1000,
    "max_steps": 0,
    "log_every": 100,
    "test_every": 0,
    "decay_steps": (400, 600),
    "checkpoint_steps": (0, 600, 601),
    "zero_steps": 400,
  }
  found = schedules.scaled(config, 0.01)
  assert found == {
    "steps": 10,
    "max_steps": 0,
    "log_every": 100,
    "test_every": 0,
    "decay_steps": (4, 6),
    "checkpoint_steps": (0, 6),
    "zero_steps": 400,
  }
  assert config["steps"] == 1000
