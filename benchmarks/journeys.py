"""Times what users wait for, before and now: python -m benchmarks.journeys --baseline=335cb3a

Checks a commit out beside this one (335cb3a is version 0.1.0) and lets both, in turns and in
processes of their own, draw a saved spectrum by the command plot, and measure six checkpoints of a
small convolutional network. Prints seconds of CPU and of the clock, medians over rounds. Of this
version also the callback: its first measurement, and the median of the later ones.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time

_SCRIPT = pathlib.Path(__file__).resolve()
CHECKPOINTS = 6
_RUN = {"num_draws": 1, "lanczos_steps": 20, "progress": False}


def network():
  """Returns a convolutional network of 3,578 parameters, its loss and two batches of 64 images."""
  import keras
  import numpy as np

  keras.utils.set_random_seed(0)
  layers = keras.layers
  model = keras.Sequential(
    [
      keras.Input((16, 16, 3)),
      layers.Conv2D(8, 3, activation="relu"),
      layers.MaxPooling2D(),
      layers.Conv2D(16, 3, activation="relu"),
      layers.MaxPooling2D(),
      layers.Flatten(),
      layers.Dense(32, "relu"),
      layers.Dense(10),
    ]
  )
  rng = np.random.default_rng(0)
  images = rng.standard_normal((128, 16, 16, 3)).astype(np.float32)
  labels = rng.integers(10, size=128)
  data = [(images[i : i + 64], labels[i : i + 64]) for i in (0, 64)]
  return model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), data


def checkpoints(folder: pathlib.Path) -> None:
  """Measures the checkpoints of a folder by the version that can be imported here."""
  import keras

  import tf_hessian

  _, loss, data = network()
  paths = sorted(folder.glob("*.keras"))
  if hasattr(tf_hessian, "spectra"):
    operator = tf_hessian.HessianOperator(keras.models.load_model(paths[0]), loss, data)
    tf_hessian.spectra(operator, paths, **_RUN)
    return
  for path in paths:  # version 0.1.0 takes the model
    tf_hessian.spectral_density(keras.models.load_model(path), loss, data, **_RUN)


def callback() -> dict[str, float]:
  """Returns seconds of the callback's first measurement and of a later one."""
  import tf_hessian

  model, loss, data = network()

  class Timed(tf_hessian.SpectrumCallback):
    def on_train_begin(self, logs=None):
      begin = time.perf_counter()
      super().on_train_begin(logs)
      self.building, self.seconds = time.perf_counter() - begin, []

    def on_epoch_end(self, epoch, logs=None):
      begin = time.perf_counter()
      super().on_epoch_end(epoch, logs)
      self.seconds.append(time.perf_counter() - begin)

  model.compile("sgd", loss)
  timed = Timed(data)
  model.fit(*data[0], epochs=8, verbose=0, callbacks=[timed])
  return {
    "callback: built and checked before training": timed.building,
    "callback: first measurement": timed.seconds[0],
    "callback: a later one": statistics.median(timed.seconds[1:]),
  }


def child(name: str, folder: pathlib.Path) -> None:
  """Does one of the journeys, and prints what it measured."""
  if name == "plot":
    import runpy

    sys.argv = ["plot", f"--input={folder / 'spectrum.npz'}", f"--output={folder / 'plot.png'}"]
    try:
      runpy.run_module("tf_hessian.bin.plot", run_name="__main__")
    except SystemExit as e:
      assert not e.code
  elif name == "checkpoints":
    checkpoints(folder)
  else:
    print(json.dumps(callback()))


def prepare(folder: pathlib.Path) -> None:
  """Makes the checkpoints, and a spectrum that is drawn."""
  import tf_hessian

  model, loss, data = network()
  operator = tf_hessian.HessianOperator(model, loss, data)
  tf_hessian.spectral_density(operator, **_RUN).save(folder / "spectrum.npz")
  for i in range(CHECKPOINTS):
    model.set_weights([0.9 * w for w in model.get_weights()])
    model.save(folder / f"step_{i}.keras")


def compare(tree: pathlib.Path, rounds: int) -> None:
  """Prints the figures."""
  from benchmarks.baseline import ROOT, run_python

  installed = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tree / "bytecode")}
  with tempfile.TemporaryDirectory() as folder:
    run_python(ROOT, [_SCRIPT, "--child=prepare", f"--folder={folder}"], **installed)
    print(f"{'':46s} {'before':>16s} {'now':>16s}")
    for name in ("plot", "checkpoints"):
      found: dict = {tree: [], ROOT: []}
      for _ in range(rounds):
        for where, results in found.items():
          cpu, begin = _children(), time.perf_counter()
          run_python(where, [_SCRIPT, f"--child={name}", f"--folder={folder}"], **installed)
          results.append((_children() - cpu, time.perf_counter() - begin))
      title = {"plot": "plot of a saved spectrum", "checkpoints": f"{CHECKPOINTS} checkpoints"}
      for i, unit in enumerate(("CPU seconds", "seconds")):
        before, now = (statistics.median(r[i] for r in results) for results in found.values())
        print(f"{title[name] + ', ' + unit:46s} {before:16.2f} {now:16.2f}", flush=True)
    said = run_python(ROOT, [_SCRIPT, "--child=callback", f"--folder={folder}"], **installed)
    for title, seconds in json.loads(said.splitlines()[-1]).items():
      print(f"{title + ', seconds':46s} {'':16s} {seconds:16.3f}")


def _children():
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def main() -> int:
  """Reads the arguments; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--baseline", default="335cb3a", help="commit to compare with")
  parser.add_argument("--rounds", type=int, default=3, help="processes of each version")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.child == "prepare":
    prepare(options.folder)
  elif options.child:
    child(options.child, options.folder)
  else:
    from benchmarks.baseline import checked_out

    with checked_out(options.baseline) as tree:
      compare(tree, options.rounds)
  return 0


if __name__ == "__main__":
  sys.exit(main())
