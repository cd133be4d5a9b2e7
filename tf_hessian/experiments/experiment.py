"""From a config to model, data, loss and operator."""

import dataclasses
import inspect

import keras
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.data import mnist, synthetic
from tf_hessian.models import cifar_resnet, mlp
from tf_hessian.numerics import checks

MODELS = {"mlp": mlp.mlp, "cifar_resnet": cifar_resnet.cifar_resnet}
DATA = {"mnist": mnist.dataset, "synthetic": synthetic.dataset}

_SECTIONS = {
  "seed": None,
  "model": None,
  "data": None,
  "loss": None,
  "train": {"batch_size", "learning_rate", "momentum", "epochs", "until_accuracy", "max_epochs"},
  "hessian": {"batch_size", "training", "mode", "variables", "num_shards"},
  "lanczos": {"draws", "steps"},
  "density": {"sigma_squared", "relative"},
}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a config describes; made by `build`."""

  config: dict  # plain values
  loss: keras.losses.Loss
  examples: tf.data.Dataset  # single examples (input, target), in a fixed order

  def new_model(self):
    """Returns the model with the initial weights that the config's seed gives."""
    keras.utils.set_random_seed(self.config["seed"])
    return _call("model", MODELS, self.config["model"])

  def operator(self, model, *, dtype=None, **options):
    """Returns the `HessianOperator` that `config.hessian` asks for.

    Args:
      model: the model.
      dtype: what floating-point examples are cast to, such as "float64"; None leaves them.
      **options: further arguments of `HessianOperator`: what concerns the machine.
    """
    section = self.config["hessian"]
    examples = self.examples
    if dtype is not None:
      examples = examples.map(
        lambda *example: tf.nest.map_structure(
          lambda t: tf.cast(t, dtype) if t.dtype.is_floating else t, example
        )
      )
    return HessianOperator(
      model,
      self.loss,
      examples.batch(section["batch_size"]),
      variables=section["variables"] or None,
      training=section["training"],
      seed=self.config["seed"],
      mode=section["mode"] or None,
      num_shards=section["num_shards"],
      **options,
    )


def check(config, /):
  """Returns a config as plain values, after checking its fields; initialises no device.

  Args:
    config: an `ml_collections.ConfigDict`; see configs/mnist_mlp.py.

  Raises:
    ValueError: for a missing or unknown field, naming the nearest known one.
  """
  config = config.to_dict()
  _check_fields("config", config, set(_SECTIONS), required=True)
  for name, fields in _SECTIONS.items():
    if fields is not None:
      _check_fields(f"config.{name}", config[name], fields, required=True)
  _check_values(config)
  _arguments("model", MODELS, config["model"])
  _arguments("data", DATA, config["data"])
  return config


def build(config, /):
  """Returns the `Experiment` of a config, after checking all its fields; see `check`."""
  config = check(config)
  loss = _loss(config["loss"])
  examples = _call("data", DATA, config["data"])
  return Experiment(config, loss, examples)


def _check_values(config):
  """Checks the fields whose values would fail late, or without naming the field."""
  checks.check_seed(config["seed"])
  for section, field in (
    ("train", "batch_size"),
    ("train", "epochs"),
    ("train", "max_epochs"),
    ("hessian", "batch_size"),
    ("hessian", "num_shards"),
    ("lanczos", "draws"),
    ("lanczos", "steps"),
  ):
    checks.check_count(f"config.{section}.{field}", config[section][field])
  for section, field in (("train", "learning_rate"), ("density", "sigma_squared")):
    checks.check_positive(f"config.{section}.{field}", config[section][field])


def _call(section, registry, fields):
  """Calls the function that a section names with the section's other fields."""
  arguments = _arguments(section, registry, fields)
  return registry[fields["name"]](**arguments)


def _arguments(section, registry, fields):
  """Returns a section's fields without its name, after checking both."""
  name = fields.get("name")
  checks.check_choice(f"config.{section}.name", name, registry)
  arguments = {k: v for k, v in fields.items() if k != "name"}
  known = set(inspect.signature(registry[name]).parameters)
  _check_fields(f"config.{section}", arguments, known)
  return arguments


def _loss(fields):
  losses = {n: c for n, c in vars(keras.losses).items() if inspect.isclass(c) and n != "Loss"}
  return _call("loss", losses, fields)


def _check_fields(where, found, known, required=False):
  for name in found:
    if name not in known:
      raise ValueError(f"{where}: unknown field {name!r}{checks.nearest(name, known)}")
  if required and known - set(found):
    raise ValueError(f"{where}: missing field {sorted(known - set(found))[0]!r}")
