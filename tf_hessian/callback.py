"""Curvature in `fit`: a Keras callback that measures while a model is trained."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import re
from typing import Any, NamedTuple

from absl import logging
import keras
import tensorflow as tf

from tf_hessian import folders, plotting, records
from tf_hessian.curvature.failures import ModelChangedError, NonFiniteError
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics import checks, probes
from tf_hessian.numerics.results import Eigenpairs, EigenpairStatus
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.eigenpairs import top_eigenpairs
from tf_hessian.slq.matrix import as_matrix
from tf_hessian.spectrum import Spectrum

_KIND = folders.Kind("folder of a callback", "callback.json", re.compile(r"step_\d+\.npz"))


class Measurement(NamedTuple):
  """One measurement of a `SpectrumCallback`.

  Attributes:
    step: number of training steps before it.
    logs: dict of what stands in the logs.
    eigenpairs: `Eigenpairs`, or None if there are no draws of them.
    spectrum: `Spectrum`, or None without draws.
  """

  step: int
  logs: dict[str, float]
  eigenpairs: Eigenpairs | None
  spectrum: Spectrum | None


class SpectrumCallback(keras.callbacks.Callback):
  """Measures the Hessian while a model is trained by `fit`.

  The logs get `hessian_top_1` and so on, the largest eigenvalues; `hessian_smallest_1` and so on;
  `hessian_top_1_times_lr`, to be read against 2, above which plain gradient descent leaves the
  direction (with momentum or Adam the bound is another one; not for steps by another optimizer than
  the compiled one);
  and `hessian_trace` with `hessian_trace_stderr` if there are draws. So they are in the history, in
  TensorBoard, and in a CSV file if `CSVLogger` comes after it in the list. Between measurements the
  logs have the last one. Training goes on bitwise as without it.

  >>> import keras
  >>> import numpy as np
  >>> import tf_hessian
  >>> keras.utils.set_random_seed(0)
  >>> x = np.eye(2, dtype="float32")
  >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
  >>> model.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
  >>> callback = tf_hessian.SpectrumCallback([(x, x[:, :1])])
  >>> history = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[callback]).history
  >>> np.round(history["hessian_top_1"], 5).tolist()  # of the loss |w - e|^2 / 2
  [1.0, 1.0]

  Args:
    dataset: data that the Hessian is of, as for a `HessianOperator`; the same in each pass, so not
      shuffled anew. They need not be those of `fit`.
    loss: as for a `HessianOperator`; None for what `fit` minimises.
    freq: "epoch" for the end of each epoch, or a number of training steps.
    top: number of the largest eigenvalues.
    smallest: number of the smallest.
    draws: number of draws of the density; 0 for none.
    lanczos_steps: steps of each draw.
    tolerance: of the eigenvalues' residuals, relative to the largest.
    repeated: whether to look for more copies of eigenvalues where more than one is wanted of an
      end, which takes some 5 to 40 products.
    seed: seed of the start vectors, and of random layers.
    log_dir: folder for TensorBoard: the numbers by step, and the density as a picture.
    workdir: folder for spectra, as step_N.npz, which `tf_hessian.bin.plot` reads; it needs draws.
      It has to be new or empty, or hold earlier steps of this training.
    check: whether to look first whether products and data repeat, and at symmetry.
    **options: further arguments of `HessianOperator`, such as `training` and `num_batches`.

  Attributes:
    measurements: list of `Measurement`s of the last `fit`.
    operator: the `HessianOperator`, once training has begun.

  Raises:
    TypeError, ValueError: for bad arguments; and before the first step for data or a loss that
      can't be measured.
    ImportError: without TensorBoard, if there is a `log_dir`.
  """

  def __init__(
    self,
    dataset: Any,
    *,
    loss: Any = None,
    freq: str | int = "epoch",
    top: int = 1,
    smallest: int = 0,
    draws: int = 0,
    lanczos_steps: int = 40,
    tolerance: float = 1e-3,
    repeated: bool = True,
    seed: int = 0,
    log_dir: str | os.PathLike | None = None,
    workdir: str | os.PathLike | None = None,
    check: bool = True,
    **options: Any,
  ) -> None:
    super().__init__()
    # Of __init__: LinearOperator's __new__ has a signature of its own, which Python 3.10 takes.
    unknown = options.keys() - inspect.signature(HessianOperator.__init__).parameters.keys()
    if unknown:
      raise TypeError(
        f"SpectrumCallback: neither it nor HessianOperator takes {', '.join(sorted(unknown))} (the "
        "callback's own are draws, lanczos_steps, top, smallest, ...)"
      )
    if freq != "epoch":
      if isinstance(freq, str):
        raise ValueError(f"freq: expected 'epoch' or a number of training steps, got {freq!r}")
      checks.check_count("freq", freq)
    for name, count in (("top", top), ("smallest", smallest), ("draws", draws)):
      if count != 0:
        checks.check_count(name, count)
    if not (top or smallest or draws):
      raise ValueError("top, smallest, draws: all are 0, so there is nothing to measure")
    if workdir is not None and not draws:
      raise ValueError("workdir: is for spectra; give draws=10 or so")
    checks.check_count("lanczos_steps", lanczos_steps)
    checks.check_positive("tolerance", tolerance)
    self._data, self._loss, self._freq = dataset, loss, freq
    self._top, self._smallest, self._draws = top, smallest, draws
    self._steps, self._seed = lanczos_steps, checks.check_seed(seed)
    self._tolerance, self._repeated = tolerance, repeated
    self._workdir = None if workdir is None else folders.as_path(workdir)
    self._log_dir, self._check, self._options = log_dir, check, options
    self._writer = None if log_dir is None else _summary_writer(log_dir)
    self.measurements: list[Measurement] = []
    self.operator: HessianOperator | None = None
    self._said = False

  def on_train_begin(self, logs: dict | None = None) -> None:
    """Builds the operator, and checks it."""
    del logs
    self.measurements, self._said = [], False
    self.operator = self._new_operator()
    n = self.operator.shape[0]
    if self._top + self._smallest > n:
      raise ValueError(f"top, smallest: expected at most n = {n} eigenvalues together")
    if self._check:
      as_matrix(self.operator).check()
    self._first, self._seen, self._epochs = self._iterations(), 0, 0
    self._last = self._step()
    if self._workdir is not None:
      self._open_folder()

  def _new_operator(self):
    result = HessianOperator(self.model, self._loss, self._data, seed=self._seed, **self._options)
    # A `fit` that is traced keeps what Python was when it began, too.
    result.runner.follows_python = False
    return result

  def _follow(self):
    """Makes the operator anew if a model that runs eagerly has changed."""
    if not self.model.run_eagerly:
      return
    try:
      self.operator.runner.check_trace()
    except ModelChangedError as e:
      logging.info("SpectrumCallback: a new operator is made: %s", e)
      self.operator = self._new_operator()

  def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
    """Measures if it is time to."""
    del logs
    self._seen = self._epochs + batch + 1
    if self._freq == "epoch":
      return
    step = self._step()
    if step // self._freq > self._last // self._freq:  # several steps may be one execution
      self._measure(step)
    self._last = step

  def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
    """Measures if it is time to, and adds to the logs."""
    del epoch
    self._epochs = self._seen
    if self._freq == "epoch":
      self._measure(self._step())
    if logs is not None and self.measurements:
      logs.update(self.measurements[-1].logs)

  def on_train_end(self, logs: dict | None = None) -> None:
    """Writes what is left for TensorBoard."""
    del logs
    if self._writer is not None:
      self._writer.flush()

  def _open_folder(self):
    """Takes the folder of spectra, unless it holds those of another training."""
    later = [n for n in _saved_steps(self._workdir) if n > self._last]
    if later:
      raise ValueError(
        f"workdir: {self._workdir} holds spectra of steps up to {max(later)}, and training is at "
        f"step {self._last}: choose a new or empty folder, or list BackupAndRestore before this "
        "callback"
      )
    names = repr([list(self.operator.parameter_names), list(self.operator.parameter_shapes)])
    text = json.dumps({"variables": hashlib.sha256(names.encode()).hexdigest()})
    folders.OwnedFolder(self._workdir, _KIND, text, self._check_record(text)).close()

  def _check_record(self, text):
    def check(found):
      if found != text:
        raise ValueError(
          f"workdir: {self._workdir} holds spectra of another model: {records.OTHER_NAMES}"
        )

    return check

  def _iterations(self):
    optimizer = self.model.optimizer
    return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))

  def _own_steps(self):
    """Returns whether the model trains by another optimizer than the compiled one."""
    return self._seen > 0 and self._iterations() == self._first

  def _step(self):
    return self._first + self._seen if self._own_steps() else self._iterations()

  def _measure(self, step):
    self._follow()
    try:
      self.operator.check_point()
      # The draws first: the pass that they share makes single products too.
      spectrum = self._spectrum() if self._draws else None
      pairs = self._eigenpairs(step) if self._top + self._smallest else None
    except NonFiniteError as e:  # training that diverges goes on
      if not self._said:
        logging.warning("SpectrumCallback: not measured from step %d on: %s", step, e)
      self._said = True
      return
    measured = Measurement(step, self._logs(pairs, spectrum), pairs, spectrum)
    self.measurements.append(measured)
    if self._workdir is not None:
      spectrum.save(self._workdir / f"step_{step}.npz")
    if self._writer is not None:
      self._write(measured)

  def _eigenpairs(self, step):
    known = [m.eigenpairs for m in self.measurements if m.eigenpairs is not None]
    n, start = self.operator.shape[0], None
    if known and known[-1].vectors.shape[1] == n:  # layers may have been frozen since
      old = known[-1].vectors.sum(axis=0) / len(known[-1].vectors) ** 0.5
      # As much is random, so that new directions are found.
      start = old + probes.probe(self._seed, probes.Stream.EIGENPAIRS, n)
    found = top_eigenpairs(
      self.operator,
      self._top,
      self._smallest,
      tolerance=self._tolerance,
      repeated=self._repeated,
      start=start,
      seed=self._seed,
      progress=False,
    )
    if found.status is not EigenpairStatus.CONVERGED:
      logging.warning("SpectrumCallback: step %d: eigenvalues: %s", step, found.status.value)
    return found

  def _spectrum(self):
    return spectral_density(
      self.operator,
      num_draws=self._draws,
      lanczos_steps=min(self._steps, self.operator.shape[0]),
      seed=self._seed,
      check=False,
      progress=False,
    )

  def _logs(self, pairs, spectrum):
    logs = {}
    if pairs is not None:
      values = pairs.values.tolist()
      logs |= {f"hessian_top_{i + 1}": v for i, v in enumerate(values[: self._top])}
      logs |= {f"hessian_smallest_{i + 1}": v for i, v in enumerate(values[self._top :])}
    if self._top and not self._own_steps():
      rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
      logs["hessian_top_1_times_lr"] = logs["hessian_top_1"] * rate
    if spectrum is not None:
      logs["hessian_trace"], logs["hessian_trace_stderr"] = map(float, spectrum.trace())
    return logs

  def _write(self, measured):
    with self._writer.as_default(step=measured.step):
      for name, value in measured.logs.items():
        tf.summary.scalar(name, value)
      if measured.spectrum is not None:
        _, axes = plotting.new_figure()
        picture = plotting.png(plotting.plot_spectrum(measured.spectrum, ax=axes).figure)
        tf.summary.image("hessian_density", tf.io.decode_png(picture)[tf.newaxis])
    self._writer.flush()


def _saved_steps(folder):
  if not folder.is_dir():
    return []
  names = (re.fullmatch(r"step_(\d+)\.npz", name) for name in os.listdir(folder))
  return [int(found[1]) for found in names if found]


def _summary_writer(log_dir):
  """Returns TensorFlow's writer of summaries, which needs TensorBoard."""
  if importlib.util.find_spec("tensorboard") is None:
    raise ImportError("log_dir: TensorBoard is not installed: pip install tensorboard")
  return tf.summary.create_file_writer(os.fspath(log_dir))
