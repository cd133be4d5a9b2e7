"""Training by Keras, one epoch at a time, resumable, until the training set is fitted."""

import csv
import io
import json
import math
import pathlib
import time
import zipfile

from absl import logging
import keras
import tensorflow as tf

from tf_hessian import files

_SAVE_SECONDS = 2.0  # epochs of small models are shorter than what saving takes


def train(model, loss, examples, config, workdir, /, *, seed=0, verbose=True):
  """Trains a model by SGD and saves it; goes on where an interrupted run stopped.

  The order of the examples in an epoch depends on the seed and the epoch alone, so an interrupted
  run ends with the weights of an undisturbed one.

  Args:
    model: a Keras model that returns logits.
    loss: a Keras loss.
    examples: finite `tf.data.Dataset` of single examples (input, target).
    config: dict: batch_size, learning_rate, momentum, epochs, until_accuracy (0: none), max_epochs.
    workdir: folder for the checkpoint model.keras, the log train.csv, and train.json.
    seed: seed of the order of the examples.
    verbose: log about ten lines over the schedule.

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
  optimizer.build(model.trainable_variables)
  steps_per_epoch = math.ceil(int(examples.cardinality()) / config["batch_size"])
  rows = _restore(model, steps_per_epoch, workdir)
  saved = time.monotonic()
  last = max(config["epochs"], config["max_epochs"] if config["until_accuracy"] else 0)
  while len(rows) < last and not _finished(model, examples, config, len(rows)):
    rows.append(_epoch(model, examples, config, seed, len(rows)))
    if verbose and len(rows) % max(1, config["epochs"] // 10) == 0:
      values = ", ".join(f"{k} {v:.4f}" for k, v in rows[-1].items() if k != "epoch")
      logging.info("epoch %d: %s", len(rows), values)
    if time.monotonic() - saved > _SAVE_SECONDS:
      _save_state(model, rows, workdir)
      saved = time.monotonic()

  result = evaluate(model, examples) | {"epochs": len(rows)}
  save_model(model, workdir / "model.keras")
  if config["until_accuracy"] and result["accuracy"] < config["until_accuracy"]:
    _save_state(model, rows, workdir)
    raise ValueError(
      f"training: accuracy {result['accuracy']:.4f} after max_epochs = {config['max_epochs']}, "
      f"expected {config['until_accuracy']}; the model is saved, raise max_epochs to go on"
    )
  files.write_text(workdir / "train.csv", _table(rows))
  files.write_text(workdir / "train.json", json.dumps(result, indent=2))
  (workdir / "training.keras").unlink(missing_ok=True)
  return result


def _epoch(model, examples, config, seed, epoch):
  """Trains one epoch; returns its row of the log."""
  # A seed from both, so that an epoch can be repeated by itself.
  pair = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int32), epoch)
  order = examples.shuffle(int(examples.cardinality()), seed=int(pair[0]))
  history = model.fit(order.batch(config["batch_size"]), verbose=0, shuffle=False).history
  row = {"epoch": epoch} | {k: v[0] for k, v in history.items()}
  if not math.isfinite(row["loss"]):
    raise ValueError(
      f"training: the loss is {row['loss']} after epoch {epoch + 1}; lower the learning rate"
    )
  return row


def _finished(model, examples, config, epochs):
  if epochs < config["epochs"]:
    return False
  target = config["until_accuracy"]
  return not target or evaluate(model, examples)["accuracy"] >= target


def _save_state(model, rows, workdir):
  """Records log, weights and optimizer; the optimizer's count says how many rows are valid."""
  files.write_text(workdir / "train.csv", _table(rows))
  save_model(model, workdir / "training.keras")


def _restore(model, steps_per_epoch, workdir):
  """Takes over what an interrupted run saved; returns the rows of its log."""
  path, log = workdir / "training.keras", workdir / "train.csv"
  if not path.exists():
    return []
  try:
    found = load_model(path, compiled=True)
    rows = [
      {k: int(v) if k == "epoch" else float(v) for k, v in row.items()}
      for row in csv.DictReader(io.StringIO(log.read_text()))
    ]
  except (OSError, ValueError) as e:
    logging.warning("training begins again: %s", e)
    return []
  for a, b in zip(model.variables, found.variables, strict=True):
    a.assign(b)
  for a, b in zip(model.optimizer.variables, found.optimizer.variables, strict=True):
    a.assign(b)
  epochs = int(model.optimizer.iterations) // steps_per_epoch
  logging.info("%s: training goes on after epoch %d", workdir, epochs)
  return rows[:epochs]


def _table(rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]) if rows else ["epoch"], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


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
  try:
    model.save(temporary)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def load_model(path, /, *, compiled=False):
  """Reads a `.keras` file.

  Args:
    path: the file.
    compiled: read the optimizer's state too.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged.
  """
  if not pathlib.Path(path).exists():
    raise FileNotFoundError(f"{path}: there is no such checkpoint; train the model first")
  try:
    with zipfile.ZipFile(path) as archive:
      damaged = archive.testzip()
    if damaged:
      raise ValueError(f"{damaged} has a wrong checksum")
    return keras.models.load_model(path, compile=compiled)
  except Exception as e:  # a damaged archive fails in many ways inside zipfile, h5py and Keras
    raise ValueError(f"{path}: not a Keras model, or damaged ({e})") from e
