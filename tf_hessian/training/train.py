"""Training by Keras, resumable, until the training set is fitted."""

import json
import math
import pathlib

from absl import logging
import keras
import tensorflow as tf

from tf_hessian import files


class _StopWhenFitted(keras.callbacks.Callback):
  """Stops after `epochs` epochs, or later as soon as the accuracy on the whole set is reached."""

  def __init__(self, examples, epochs, accuracy):
    super().__init__()
    self._examples = examples
    self._epochs = epochs
    self._accuracy = accuracy

  def on_epoch_end(self, epoch, logs=None):
    if not math.isfinite(logs["loss"]):
      raise ValueError(
        f"training: the loss is {logs['loss']} after epoch {epoch + 1}; lower the learning rate"
      )
    if epoch + 1 < self._epochs:
      return
    if not self._accuracy or evaluate(self.model, self._examples)["accuracy"] >= self._accuracy:
      self.model.stop_training = True


def train(model, loss, examples, config, workdir, /, *, seed=0, verbose=True):
  """Trains a model by SGD and saves it; goes on where an interrupted run stopped.

  Args:
    model: a Keras model that returns logits.
    loss: a Keras loss.
    examples: finite `tf.data.Dataset` of single examples (input, target).
    config: dict: batch_size, learning_rate, momentum, epochs, until_accuracy (0: none), max_epochs.
    workdir: folder for the checkpoint model.keras, the log train.csv, and train.json.
    seed: seed of the order of the examples.
    verbose: show Keras's progress.

  Returns:
    dict: loss, accuracy (if there is one), epochs.

  Raises:
    ValueError: if the loss is not finite, or the accuracy is not reached in max_epochs.
    OSError: if the folder can't be written.
  """
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  optimizer = keras.optimizers.SGD(config["learning_rate"], momentum=config["momentum"])
  metrics = ["accuracy"] if config["until_accuracy"] else []
  model.compile(optimizer, loss=loss, metrics=metrics, jit_compile=False)
  count = int(examples.cardinality())
  batches = examples.shuffle(count, seed=seed).batch(config["batch_size"])
  stop = _StopWhenFitted(examples, config["epochs"], config["until_accuracy"])
  history = model.fit(
    batches,
    epochs=max(config["epochs"], config["max_epochs"]),
    verbose=0,
    callbacks=[
      keras.callbacks.BackupAndRestore(str(workdir / "backup"), save_freq="epoch"),
      keras.callbacks.CSVLogger(str(workdir / "train.csv"), append=True),
      stop,
      *([_Log(config["epochs"])] if verbose else []),
    ],
  )
  result = evaluate(model, examples) | {"epochs": 1 + max(history.epoch, default=-1)}
  save_model(model, workdir / "model.keras")
  files.write_text(workdir / "train.json", json.dumps(result, indent=2))
  if config["until_accuracy"] and result["accuracy"] < config["until_accuracy"]:
    raise ValueError(
      f"training: accuracy {result['accuracy']:.4f} after max_epochs = {config['max_epochs']}, "
      f"expected {config['until_accuracy']}; the model is saved, raise max_epochs to go on"
    )
  return result


class _Log(keras.callbacks.Callback):
  """One line for every tenth of the schedule."""

  def __init__(self, epochs):
    super().__init__()
    self._every = max(1, epochs // 10)

  def on_epoch_end(self, epoch, logs=None):
    if (epoch + 1) % self._every == 0:
      values = ", ".join(f"{k} {v:.4f}" for k, v in logs.items())
      logging.info("epoch %d: %s", epoch + 1, values)


def evaluate(model, examples, /):
  """Returns the mean loss, and accuracy if compiled, over all examples: a dict of floats."""
  return {
    k: float(v)
    for k, v in model.evaluate(examples.batch(1000), verbose=0, return_dict=True).items()
  }


def save_model(model, path, /):
  """Writes a `.keras` file, whole or not at all."""
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.partial.keras")
  model.save(temporary)
  temporary.replace(path)


def load_model(path, /):
  """Reads a `.keras` file.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged.
  """
  if not pathlib.Path(path).exists():
    raise FileNotFoundError(f"{path}: there is no such checkpoint; train the model first")
  try:
    return keras.models.load_model(path, compile=False)
  except (ValueError, OSError, KeyError, tf.errors.OpError) as e:
    raise ValueError(f"{path}: not a Keras model, or damaged ({e})") from e
