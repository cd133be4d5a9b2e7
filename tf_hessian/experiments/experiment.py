"""From a config to model, data, loss and operator."""

import dataclasses
import inspect

import keras
import tensorflow as tf

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.data import cifar10, function, imagenet, mnist, source, synthetic
from tf_hessian.models import cifar_resnet, filters, imagenet_resnet, inception_v3, mlp, vgg
from tf_hessian.numerics import checks
from tf_hessian.training import checkpoints, schedules
from tf_hessian.training.task import Task

MODELS = {
  "cifar_resnet": cifar_resnet.cifar_resnet,
  "imagenet_resnet18": imagenet_resnet.imagenet_resnet18,
  "inception_v3": inception_v3.inception_v3,
  "keras_file": lambda *, path: checkpoints.load_model(path),
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

# What each section has, and the values of what may be left out.
_REQUIRED = object()
_SECTIONS = {
  "train": {
    "batch_size": _REQUIRED,
    "learning_rate": _REQUIRED,
    "momentum": _REQUIRED,
    "steps": _REQUIRED,
    "per_replica": False,
    "schedule": "constant",
    "decay_steps": (),
    "decay_factor": 0.1,
    "zero_steps": 0,
    "until_accuracy": 0.0,
    "max_steps": 0,
    "checkpoint_steps": (),
    "log_every": 100,
    "test_every": 0,
    "test_examples": 0,
  },
  "hessian": {
    "batch_size": _REQUIRED,
    "training": _REQUIRED,
    "mode": "",
    "variables": "",
    "num_shards": 16,
    "num_examples": 0,
    "augment": False,
    "filter_normalization": False,
  },
  "lanczos": {"draws": _REQUIRED, "steps": _REQUIRED, "target_error": 0.0},
  "density": {"sigma_squared": _REQUIRED, "relative": False},
}
_NAMED = ("model", "data", "loss")  # sections whose fields are those of what they name
_MACHINE = {"data_dir", "download"}  # arguments of data sets that are no fields


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a config describes; made by `build`."""

  config: dict  # plain values
  task: Task
  source: source.Source

  def new_model(self):
    """Returns the model with the initial weights that the config's seed gives."""
    keras.utils.set_random_seed(self.config["seed"])
    return _call("model", MODELS, self.config["model"])

  def measured(self, model=None, /):
    """Returns the single examples that the Hessian is of, as `config.hessian` asks for them.

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
    outputs = len(self.task.weights)
    if outputs > 1:
      examples = examples.map(lambda x, y, *rest: (x, (y,) * outputs, *rest))
    return examples

  def operator(self, model, *, dtype=None, **options):
    """Returns the `HessianOperator` that `config.hessian` asks for.

    Args:
      model: the model.
      dtype: what floating-point examples are cast to, such as "float64"; None leaves them.
      **options: further arguments of `HessianOperator`: what concerns the machine.
    """
    section = self.config["hessian"]
    if section["filter_normalization"]:
      filters.normalize_filters(model)
    examples = self.measured(model)
    if dtype is not None:
      examples = examples.map(
        lambda *example: tf.nest.map_structure(
          lambda t: tf.cast(t, dtype) if t.dtype.is_floating else t, example
        )
      )
    return HessianOperator(
      model,
      self.task.loss,
      examples.batch(section["batch_size"]),
      loss_weights=list(self.task.weights) if len(self.task.weights) > 1 else None,
      variables=section["variables"] or None,
      training=section["training"],
      seed=self.config["seed"],
      mode=section["mode"] or None,
      num_shards=section["num_shards"],
      **options,
    )


def check(config, /):
  """Returns a config as plain values, after checking its fields; initialises no device.

  Fields that may be left out get their values, and `config.train` is scaled by
  `config.schedule_scale`.

  Args:
    config: an `ml_collections.ConfigDict`; see configs/cifar10_resnet32.py.

  Raises:
    ValueError: for a missing or unknown field, naming the nearest known one.
  """
  config = {"schedule_scale": 1.0} | config.to_dict()
  needed = {"seed", "schedule_scale", *_NAMED, *_SECTIONS} - {"train"}
  _check_fields("config", config, needed | {"train"}, needed)
  for name, fields in _SECTIONS.items():
    if name in config:
      required = {f for f, value in fields.items() if value is _REQUIRED}
      _check_fields(f"config.{name}", config[name], set(fields), required)
      config[name] = {f: config[name].get(f, value) for f, value in fields.items()}
  _check_values(config)
  _arguments("model", MODELS, config["model"])
  _arguments("data", DATA, config["data"])
  scale = config.pop("schedule_scale")
  if "train" in config:
    config["train"] = schedules.scaled(config["train"], scale)
    schedules.learning_rate(config["train"])
    if config["train"]["zero_steps"] >= config["train"]["steps"]:
      raise ValueError(
        f"config.train.zero_steps: {config['train']['zero_steps']} of {config['train']['steps']} "
        "steps are at learning rate 0, so nothing would be trained; raise config.train.steps or "
        "config.schedule_scale"
      )
  return config


def build(config, /, *, data_dir=None, download=False):
  """Returns the `Experiment` of a config, after checking all its fields; see `check`.

  Args:
    config: see `check`.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
  """
  config = check(config)
  fields = dict(config["loss"])
  weights = fields.pop("weights", ())
  loss = _loss(fields)
  machine = {"data_dir": data_dir, "download": download}
  examples = _call("data", DATA, config["data"], machine)
  task = Task(loss, weights=weights, classes=_classes(examples.examples.element_spec))
  return Experiment(config, task, examples)


def _check_single(spec, model):
  """Refuses examples that are batches already."""
  inputs = tf.nest.flatten(spec[0])
  expected = getattr(model, "inputs", None) or []
  if len(inputs) == len(expected) == 1 and inputs[0].shape.rank == len(expected[0].shape):
    raise ValueError(
      f"data set: expected single examples for an input of shape {tuple(expected[0].shape[1:])}, "
      f"got {tuple(inputs[0].shape)}: it looks batched; leave batch() out, or add unbatch()"
    )


def _classes(spec):
  """Returns the number of classes of one-hot targets; 0 for other targets."""
  target = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
  if not isinstance(target, tf.TensorSpec) or target.shape.rank != 1 or target.shape[0] == 1:
    return 0
  return target.shape[0]


def _check_values(config):
  """Checks the fields whose values would fail late, or without naming the field."""
  checks.check_seed(config["seed"])
  counts = ["hessian.batch_size", "hessian.num_shards", "lanczos.draws", "lanczos.steps"]
  positive = ["density.sigma_squared", "schedule_scale"]
  numbers = ["hessian.num_examples"]
  if config["lanczos"]["target_error"]:
    positive.append("lanczos.target_error")
  if "train" in config:
    counts += ["train.batch_size", "train.steps", "train.log_every"]
    positive += ["train.learning_rate", "train.decay_factor"]
    numbers += ["train.zero_steps", "train.max_steps", "train.test_every", "train.test_examples"]
  for field in counts:
    checks.check_count(f"config.{field}", _value(config, field))
  for field in positive:
    checks.check_positive(f"config.{field}", _value(config, field))
  for field in numbers:
    if _value(config, field):
      checks.check_count(f"config.{field}", _value(config, field))


def _value(config, field):
  for name in field.split("."):
    config = config[name]
  return config


def _call(section, registry, fields, machine=()):
  """Calls the function that a section names with the section's other fields."""
  arguments = _arguments(section, registry, fields)
  function = registry[fields["name"]]
  known = inspect.signature(function).parameters
  return function(**arguments, **{k: v for k, v in dict(machine).items() if k in known})


def _arguments(section, registry, fields):
  """Returns a section's fields without its name, after checking both."""
  name = fields.get("name")
  checks.check_choice(f"config.{section}.name", name, registry)
  arguments = {k: v for k, v in fields.items() if k != "name"}
  known = set(inspect.signature(registry[name]).parameters) - _MACHINE
  _check_fields(f"config.{section}", arguments, known)
  return arguments


def _loss(fields):
  losses = {n: c for n, c in vars(keras.losses).items() if inspect.isclass(c) and n != "Loss"}
  return _call("loss", losses, fields)


def _check_fields(where, found, known, required=()):
  for name in found:
    if name not in known:
      raise ValueError(f"{where}: unknown field {name!r}{checks.nearest(name, known)}")
  for name in sorted(required):
    if name not in found:
      raise ValueError(f"{where}: missing field {name!r}")
