"""Fields that a config may have, with their values.

They are known before TensorFlow is imported.

Whatever a field holds that can't be right is refused here, by its name, before anything is read or
written. What the fields of a named model, data set or loss are is checked by `experiment`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
import math
import os
from typing import Any

from ml_collections import config_dict

from tf_hessian.numerics import checks

REQUIRED = object()
Check = Callable[[str, Any], None]  # (name, value) raises unless the value can be right
# Steps and examples beyond it take longer than there is time; products of two fit into int64.
LARGEST = 10**9
_SEEDS = 2**32 - 1  # which Keras can seed its generators with


def integer(low: int = 0, high: int = LARGEST, /) -> Check:
  """Returns a check of integers from `low` to `high`.

  It is a function (name, value) that raises.
  """
  return lambda name, value: checks.check_integer(name, value, low, high)


def number(low: float = 0.0, high: float = math.inf, /) -> Check:
  """Returns a check of finite numbers from `low` to `high`."""
  return lambda name, value: checks.check_number(name, value, low, high)


def share(name: str, value: Any, /) -> None:
  """Checks a number from 0 to below 1."""
  checks.check_number(name, value, 0, 1)
  if value == 1:
    raise ValueError(f"{name}: expected a number below 1, got {value!r}")


def factor(name: str, value: Any, /) -> None:
  """Checks a factor: a number above 0.

  Another number may be multiplied by it some times, so it is at most 1e6.
  """
  checks.check_positive(name, value)
  checks.check_number(name, value, 0, 1e6)


def boolean(name: str, value: Any, /) -> None:
  """Checks True or False."""
  if not isinstance(value, bool):
    raise TypeError(f"{name}: expected True or False, got {value!r}")


def choice(*known: str) -> Check:
  """Returns a check of one of several texts."""
  return lambda name, value: checks.check_choice(name, value, known)


def text(name: str, value: Any, /) -> None:
  """Checks text that is not empty."""
  if not isinstance(value, str):
    raise TypeError(f"{name}: expected text, got {value!r}")
  if not value.strip() or "\0" in value:
    raise ValueError(f"{name}: expected text that is not empty, got {value!r}")


def each(check: Check, /) -> Check:
  """Returns a check of tuples and lists, part by part."""

  def check_all(name, value):
    if not isinstance(value, (tuple, list)):
      raise TypeError(f"{name}: expected a tuple, such as (1,) or (), got {value!r}")
    for part in value:
      check(name, part)

  return check_all


def some(check: Check, /) -> Check:
  """Returns a check of such a tuple that is not empty."""

  def check_some(name, value):
    each(check)(name, value)
    if not value:
      raise ValueError(f"{name}: expected a tuple of at least one, got {value!r}")

  return check_some


def variables(name: str, value: Any, /) -> None:
  """Checks a name pattern, or several; "" for all variables."""
  if value != "":
    (each(text) if isinstance(value, (tuple, list)) else text)(name, value)


# Matrices of the section hessian.
MATRICES = (
  *("hessian", "gauss_newton", "fisher", "sampled_fisher", "empirical_fisher"),
  "gradient_covariance",
)

positive, count = checks.check_positive, integer(1)

# Section -> field -> (value if it is left out, check).
SECTIONS = {
  "train": {
    "batch_size": (REQUIRED, count),
    "learning_rate": (REQUIRED, positive),
    "momentum": (REQUIRED, share),
    "steps": (REQUIRED, count),
    "per_replica": (False, boolean),
    "schedule": ("constant", choice("constant", "steps", "exponential")),
    "decay_steps": ((), each(count)),
    "decay_factor": (0.1, factor),
    "zero_steps": (0, integer()),
    "until_accuracy": (0.0, number(0, 1)),
    "max_steps": (0, integer()),
    "checkpoint_steps": ((), each(integer())),
    "log_every": (100, count),
    "test_every": (0, integer()),
    "test_examples": (0, integer()),
  },
  "hessian": {
    "matrix": ("hessian", choice(*MATRICES)),
    "samples": (1, count),
    "batch_size": (REQUIRED, count),
    "training": (REQUIRED, boolean),
    "mode": ("", choice("", "forward_over_backward", "backward_over_backward")),
    "variables": ("", variables),
    "num_shards": (16, count),
    "num_examples": (0, integer()),
    "augment": (False, boolean),
    "filter_normalization": (False, boolean),
  },
  "lanczos": {
    "draws": (REQUIRED, integer(1, 10**6)),
    "steps": (REQUIRED, count),
    "target_error": (0.0, number()),
  },
  "density": {"sigma_squared": (REQUIRED, positive), "relative": (False, boolean)},
}
NAMED = ("model", "data", "loss")  # sections whose fields are those of what they name
SCALED = ("steps", "max_steps", "test_every", "decay_steps", "checkpoint_steps")  # of train

# Of what the named sections name: arguments of models, data sets and losses.
ARGUMENTS = {
  "activation": text,
  "augment": boolean,
  "auxiliary": boolean,
  "bulk": number(),
  "batched": boolean,
  "bundled": boolean,
  "dense_units": integer(1, 10**9),
  "depth": integer(1, 500),  # Keras can't build much deeper ones
  "dropout_rate": share,
  "dtype": choice("float32", "float64"),
  "flatten": boolean,
  "from_logits": boolean,
  "function": text,
  "hidden_units": each(integer(1, 10**9)),
  "input_shape": some(integer(1, 10**9)),
  "label_smoothing": number(0, 1),
  "normalization": choice("batch", "population", "none"),
  "num_classes": integer(1, 10**6),
  "num_examples": integer(),
  "num_parameters": integer(1, 10**6),
  "outliers": each(number()),
  "path": text,
  "pooled_stages": each(integer(1, 10)),
  "residual": boolean,
  "seed": integer(0, _SEEDS),
  "shuffle_buffer": integer(1, 10**8),
  "size": integer(1, 10**5),
  "standardization": choice("per_image", "per_channel"),
  "use_bias": boolean,
  "weights": each(number(-math.inf)),
  "width": number(0, 1e5),
}


def fill(config: config_dict.ConfigDict, /) -> None:
  """Gives a config the fields that it has left out.

  So flags find them.

  Args:
    config: an `ml_collections.ConfigDict` that is not locked; changed.
  """
  for name, known in SECTIONS.items():
    section = config.get(name)
    for field, (value, _) in known.items() if isinstance(section, config_dict.ConfigDict) else ():
      if value is not REQUIRED and field not in section:
        section[field] = value
  if "train" in config and "schedule_scale" not in config:
    config.schedule_scale = 1.0


def check(config: config_dict.ConfigDict, /) -> dict[str, Any]:
  """Checks a config without TensorFlow; returns plain values.

  Fields that may be left out get their values. A `~` in a path is the home folder.

  Args:
    config: an `ml_collections.ConfigDict`; see configs/cifar10_resnet32.py.

  Raises:
    TypeError, ValueError: for a missing or unknown field, naming the nearest known one, or a value
      that can't be right.
  """
  config = {"schedule_scale": 1.0} | config.to_dict()
  needed = {"seed", "schedule_scale", *NAMED, *SECTIONS} - {"train"}
  check_names("config", config, needed | {"train"}, needed)
  checks.check_integer("config.seed", config["seed"], 0, _SEEDS)
  checks.check_positive("config.schedule_scale", config["schedule_scale"])
  for name in (*NAMED, *SECTIONS):
    if name in config and not isinstance(config[name], dict):
      raise TypeError(f"config.{name}: expected a section of fields, got {config[name]!r}")
  for name, fields in SECTIONS.items():
    if name in config:
      config[name] = _section(name, fields, config[name])
  for name in NAMED:
    config[name] = {f: _expanded(f, value) for f, value in config[name].items()}
    for field, value in config[name].items():
      (text if field == "name" else _argument(field))(f"config.{name}.{field}", value)
  _check_scale(config)
  hessian = config["hessian"]
  if hessian["samples"] != 1 and hessian["matrix"] != "sampled_fisher":
    raise ValueError(
      f"config.hessian.samples: is for matrix='sampled_fisher', got matrix={hessian['matrix']!r}"
    )
  return config


def _section(name, fields, found):
  """Returns a section with all its fields, after checking them."""
  required = {f for f, (value, _) in fields.items() if value is REQUIRED}
  check_names(f"config.{name}", found, set(fields), required)
  for field, value in found.items():
    fields[field][1](f"config.{name}.{field}", value)
  return {f: found.get(f, value) for f, (value, _) in fields.items()}


def _expanded(field, value):
  if field in ("path", "function") and isinstance(value, str):
    return os.path.expanduser(value)
  return value


def _argument(field):
  """Returns the check of an argument by its name.

  Of other names it is checked that numbers can be of use.
  """

  def check_other(name, value):
    if isinstance(value, (int, float)) and not abs(value) <= 1e18:  # neither is NaN
      raise ValueError(f"{name}: expected a finite number up to 1e18, got {value!r}")

  return ARGUMENTS.get(field, check_other)


def _check_scale(config):
  """Checks the numbers of steps of the scaled schedule."""
  for field in SCALED if "train" in config else ():
    steps = config["train"][field]
    largest = max(steps, default=0) if isinstance(steps, (tuple, list)) else steps
    if largest * config["schedule_scale"] > LARGEST:
      raise ValueError(
        f"config.schedule_scale: expected at most {LARGEST / largest:g}, which makes "
        f"config.train.{field} {LARGEST:,}, got {config['schedule_scale']!r}"
      )


def check_names(
  where: str, found: Iterable[str], known: Collection[str], required: Iterable[str] = ()
) -> None:
  """Raises ValueError for unknown and missing fields.

  Of an unknown one the nearest known one is told.
  """
  for name in found:
    if name not in known:
      raise ValueError(f"{where}: unknown field {name!r}{checks.nearest(name, known)}")
  for name in sorted(required):
    if name not in found:
      raise ValueError(f"{where}: missing field {name!r}")
