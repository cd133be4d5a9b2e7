"""From a config to model, data, loss and operator."""

from __future__ import annotations

from collections.abc import Callable
import concurrent.futures
import dataclasses
import inspect
import math
import os
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from tf_hessian.curvature.fisher import FisherOperator
from tf_hessian.curvature.gauss_newton import GaussNewtonOperator
from tf_hessian.curvature.gradient_covariance import GradientCovarianceOperator
from tf_hessian.curvature.operator import CurvatureOperator, HessianOperator
from tf_hessian.curvature.second_order import plain_text
from tf_hessian.data import cifar10, function, imagenet, mnist, source, synthetic
from tf_hessian.distribute.sharing import Sharing
from tf_hessian.experiments import fields
from tf_hessian.machine_memory import available_memory
from tf_hessian.models import cifar_resnet, filters, imagenet_resnet, inception_v3, mlp, vgg
from tf_hessian.numerics import checks
from tf_hessian.training import checkpoints, schedules
from tf_hessian.training.task import Task

# Of `fields.MATRICES`: the operator, and its arguments.
_OPERATORS: dict[str, tuple[Callable[..., CurvatureOperator], dict[str, str]]] = {
  "hessian": (HessianOperator, {}),
  "gauss_newton": (GaussNewtonOperator, {}),
  "fisher": (FisherOperator, {"kind": "exact"}),
  "sampled_fisher": (FisherOperator, {"kind": "sampled"}),
  "empirical_fisher": (FisherOperator, {"kind": "empirical"}),
  "gradient_covariance": (GradientCovarianceOperator, {}),
}
MODELS: dict[str, Callable[..., keras.Model]] = {
  "cifar_resnet": cifar_resnet.cifar_resnet,
  "imagenet_resnet18": imagenet_resnet.imagenet_resnet18,
  "inception_v3": inception_v3.inception_v3,
  "keras_file": lambda *, path, compiled=False: checkpoints.load_model(path, compiled=compiled),
  "mlp": mlp.mlp,
  "vgg11": vgg.vgg11,
}
DATA = {
  "cifar10": cifar10.cifar10,
  "function": function.function,
  "imagenet2012": imagenet.imagenet2012,
  "mnist": mnist.mnist,
  "synthetic": synthetic.synthetic,
}

COMPILED = "compiled"  # name of the loss that is the model's own

_COPIES = 4  # of the parameters, at least: values, gradient, vector and product
_MACHINE = {"compiled", "data_dir", "download", "memory"}  # arguments that are no fields


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The parts that a config describes; made by `build`."""

  config: dict[str, Any]  # plain values
  task: Task
  source: source.Source

  def new_model(self) -> keras.Model:
    """Returns the model with the initial weights that the config's seed gives."""
    keras.utils.set_random_seed(self.config["seed"])
    return _call("model", MODELS, self.config["model"], {"compiled": self.task.loss is None})

  def load(self, path: str | os.PathLike, /) -> keras.Model:
    """Returns a file's model, with its loss if that is measured."""
    return checkpoints.load_model(path, compiled=self.task.loss is None)

  def measured(self, model: keras.Model | None = None, /) -> tf.data.Dataset:
    """Returns the single examples that `config.hessian` asks for.

    Args:
      model: if given, the examples must fit its inputs.
    """
    section = self.config["hessian"]
    examples = self.source.examples
    if section["augment"]:
      if self.source.augmented is None:
        raise ValueError("config.hessian.augment: this data set, as configured, isn't augmented")
      examples = self.source.augmented(self.config["seed"])
    if section["num_examples"]:
      if section["num_examples"] > self.source.num_examples:
        raise ValueError(
          f"config.hessian.num_examples: expected at most {self.source.num_examples}, got "
          f"{section['num_examples']}"
        )
      examples = examples.take(section["num_examples"])
    _check_single(examples.element_spec, model)
    self._check_batch("hessian", examples)
    outputs = len(self.task.weights)
    if outputs > 1:
      examples = examples.map(lambda x, y, *rest: (x, (y,) * outputs, *rest))
    return examples

  def check_training(self) -> None:
    """Raises ValueError unless a batch can be made.

    There may be too few examples, or no room for it.
    """
    size = self.config["train"]["batch_size"]
    if size > self.source.num_examples:
      raise ValueError(
        f"config.train.batch_size: expected at most the number of examples, "
        f"{self.source.num_examples}, got {size}"
      )
    self._check_batch("train", self.source.examples)

  def _check_batch(self, section, examples):
    """Raises ValueError unless a section's batch has room."""
    size = min(self.config[section]["batch_size"], self.source.num_examples)
    each = sum(
      s.dtype.size * (s.shape.num_elements() or 1) for s in tf.nest.flatten(examples.element_spec)
    )
    there = available_memory()
    if size * each > there:
      raise ValueError(
        f"config.{section}.batch_size: {size} examples of {each:,} bytes take "
        f"{size * each / 1e9:.3g} GB, and there are {there / 1e9:.3g} GB: at most {there // each}"
      )

  def prepare(self, model: keras.Model, /) -> None:
    """Changes a model's weights in the way that the config asks for."""
    if self.config["hessian"]["filter_normalization"]:
      filters.normalize_filters(model)

  def operator(
    self,
    model: keras.Model,
    *,
    dtype: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
    patience: float = 600.0,
    **options: Any,
  ) -> CurvatureOperator:
    """Returns the operator that `config.hessian` asks for.

    Args:
      model: the model.
      dtype: what floating-point examples are cast to, such as "float64"; None leaves them.
      strategy: a `tf.distribute.Strategy`, or None.
      patience: seconds that a worker which doesn't answer is waited for.
      **options: further arguments of `HessianOperator`: what concerns the machine.
    """
    section = self.config["hessian"]
    sharing = Sharing(strategy, section["num_shards"], patience)
    self.prepare(model)
    examples = self.measured(model)
    if dtype is not None:
      examples = examples.map(
        lambda *example: tf.nest.map_structure(
          lambda t: tf.cast(t, dtype) if t.dtype.is_floating else t, example
        )
      )
    make, of_matrix = _OPERATORS[section["matrix"]]
    if section["matrix"] == "sampled_fisher":
      options["samples"] = section["samples"]
    return make(
      model,
      self.task.loss,
      examples.batch(section["batch_size"]),
      loss_weights=list(self.task.weights) if len(self.task.weights) > 1 else None,
      variables=section["variables"] or None,
      training=section["training"],
      seed=self.config["seed"],
      mode=section["mode"] or None,
      strategy=sharing,
      **of_matrix,
      **options,
    )


def check(config: ml_collections.ConfigDict, /) -> dict[str, Any]:
  """Checks a config, and returns it as plain values.

  It initialises no device.

  Fields that may be left out get their values, and `config.train` is scaled by
  `config.schedule_scale`.

  Args:
    config: an `ml_collections.ConfigDict`; see configs/cifar10_resnet32.py.

  Raises:
    TypeError, ValueError: for a missing or unknown field, naming the nearest known one, or a value
      that can't be right.
  """
  config = fields.check(config)
  if ":" not in config["loss"].get("name", ""):  # a user's own is loaded with the data
    _loss(config)
  if config["loss"].get("name") == COMPILED and ("train" in config or "weights" in config["loss"]):
    raise ValueError(
      f"config.loss.name: {COMPILED!r} is measured with the weights that were compiled; for "
      "config.train and config.loss.weights give the loss itself"
    )
  _arguments("model", MODELS, config["model"])
  _arguments("data", DATA, config["data"])
  scale = config.pop("schedule_scale")
  if "train" in config:
    config["train"] = schedules.scaled(config["train"], scale)
    try:
      schedules.learning_rate(config["train"])
    except OverflowError as e:
      raise ValueError("config.train.decay_factor: the learning rate overflows by it") from e
    if config["train"]["zero_steps"] >= config["train"]["steps"]:
      raise ValueError(
        f"config.train.zero_steps: {config['train']['zero_steps']} of {config['train']['steps']} "
        "steps are at learning rate 0, so nothing would be trained; raise config.train.steps or "
        "config.schedule_scale"
      )
  return config


def check_model(config: dict[str, Any], /) -> None:
  """Compares the size of a config's model with the memory.

  The model is built without values.

  Args:
    config: what `check` has returned.

  Raises:
    ValueError: if it can't be built, or has no room.
  """
  if config["model"]["name"] == "keras_file":
    return

  def build_without_values():
    with keras.StatelessScope(initialize_variables=False):
      model = _call("model", MODELS, config["model"])
      return [(math.prod(w.shape), tf.as_dtype(w.dtype).size) for w in model.weights]

  # What Keras notes of it, such as which names are taken, it notes for the thread.
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    try:
      sizes = pool.submit(build_without_values).result()
    except Exception as e:  # in as many ways as there are layers
      reason = " ".join(plain_text(e).split())
      raise ValueError(f"config.model: it can't be built: {reason[:300]}") from e
  needed, there = _COPIES * sum(n * size for n, size in sizes), available_memory()
  if needed > there:
    raise ValueError(
      f"config.model: its {sum(n for n, _ in sizes):,} parameters, with a gradient and a product, "
      f"take {needed / 1e9:.3g} GB, and there are {there / 1e9:.3g} GB; lower {_sizes_of(config)}"
    )


def _sizes_of(config):
  """Returns the model's fields with large numbers: text.

  The largest come first.
  """
  largest = {}
  for field, value in config["model"].items():
    numbers = value if isinstance(value, (tuple, list)) else [value]
    largest[field] = max((x for x in numbers if isinstance(x, (int, float))), default=0)
  names = sorted((f for f, x in largest.items() if x > 1), key=lambda f: -largest[f])
  return " or ".join(f"config.model.{name}" for name in names[:2]) or "its fields"


def build(
  config: ml_collections.ConfigDict,
  /,
  *,
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
) -> Experiment:
  """Returns the `Experiment` of a config, after checking its fields.

  `check` says which.

  Args:
    config: an `ml_collections.ConfigDict`, which `check` accepts.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
  """
  config = check(config)
  machine = {"data_dir": data_dir, "download": download, "memory": available_memory()}
  examples = _call("data", DATA, config["data"], machine)
  classes = _classes(examples.examples.element_spec)
  task = Task(_loss(config), weights=config["loss"].get("weights", ()), classes=classes)
  return Experiment(config, task, examples)


def _check_single(spec, model):
  """Refuses examples that are batches already."""
  inputs = tf.nest.flatten(spec[0])
  expected = getattr(model, "inputs", None) or []
  if len(inputs) == len(expected) == 1 and inputs[0].shape.rank == len(expected[0].shape):
    raise ValueError(
      f"data set: expected single examples for an input of shape {tuple(expected[0].shape[1:])}, "
      f"got {tuple(inputs[0].shape)}: it looks batched; say --batched (config.data.batched), or "
      "leave batch() out"
    )


def _classes(spec):
  """Returns the number of classes of one-hot targets; 0 for other targets."""
  target = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
  if not isinstance(target, tf.TensorSpec) or target.shape.rank != 1 or target.shape[0] == 1:
    return 0
  return target.shape[0]


def _call(section, registry, found, machine=()):
  """Calls the function that a section names with the section's other fields."""
  arguments = _arguments(section, registry, found)
  function = registry[found["name"]]
  known = inspect.signature(function).parameters
  return function(**arguments, **{k: v for k, v in dict(machine).items() if k in known})


def _arguments(section, registry, found):
  """Returns a section's fields without its name, after checking both."""
  name = found.get("name")
  checks.check_choice(f"config.{section}.name", name, registry)
  arguments = {k: v for k, v in found.items() if k != "name"}
  known = set(inspect.signature(registry[name]).parameters) - _MACHINE
  fields.check_names(f"config.{section}", arguments, known)
  return arguments


_WHOLE_LOSS = "in a shell, --loss=... takes the place of all its fields"


def _loss(config):
  """Returns the loss of a config; None for the compiled one."""
  name, rest = config["loss"].get("name"), set(config["loss"]) - {"name", "weights"}
  if name == COMPILED or ":" in str(name):
    if rest:
      raise ValueError(f"config.loss: {name!r} has no field {sorted(rest)[0]!r}; {_WHOLE_LOSS}")
    return None if name == COMPILED else _own_loss(name)
  losses = {n: c for n, c in vars(keras.losses).items() if inspect.isclass(c) and n != "Loss"}
  try:
    return _call("loss", losses, {k: v for k, v in config["loss"].items() if k != "weights"})
  except TypeError as e:  # by a class of Keras
    raise ValueError(f"config.loss: {e}") from e
  except ValueError as e:
    if rest and name in losses:
      raise ValueError(f"{e}; {_WHOLE_LOSS}") from e
    raise


def _own_loss(name):
  """Returns a user's loss, whether a class, an object or a function."""
  found = function.load("config.loss.name", name)
  found = found() if inspect.isclass(found) else found
  if not callable(found):
    raise ValueError(
      f"config.loss.name: {name}: expected a loss of Keras or a function (targets, outputs), got "
      f"{type(found).__name__}"
    )
  return found
