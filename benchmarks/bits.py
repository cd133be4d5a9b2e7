"""Compares the bits of two versions: python -m benchmarks.bits --baseline=335cb3a

Checks a commit out beside this one (335cb3a is version 0.1.0), makes the same runs by both, each in
processes of its own, and prints whether the tridiagonal matrices are bitwise equal. A folder that
the baseline has begun is also finished by this version. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SYNTHETIC = ("--config=configs/synthetic_quadratic.py", "--initial")
_CLUSTER = ("--config.data.num_examples=128", "--config.hessian.batch_size=16")
_STEPS = ("--config.lanczos.draws=3", "--config.lanczos.steps=8")
_DEMO = ("--config=configs/mnist_mlp.py", "--initial", "--config.lanczos.steps=30")

# Name -> the command's module and arguments, of which the work folder is the last.
COMMANDS = {
  "demo, ten draws of 30 steps": ("spectrum", *_DEMO),
  "mirrored, two replicas": ("spectrum", *_SYNTHETIC, "--strategy=mirrored", "--num_devices=2"),
  "equal workers": ("local_cluster", "--workers=2", "--", *_SYNTHETIC, *_CLUSTER, *_STEPS),
  "parameter server": (
    *("local_cluster", "--workers=2", "--ps=1", "--"),
    *(*_SYNTHETIC, *_CLUSTER, *_STEPS),
  ),
}
# Name -> arguments of `child`, in a process that imports one of the versions.
CHILDREN = {
  "ResNet-14, float32, ten draws in lock step": ("resnet", "memory", 10, 4),
  "ResNet-14, on disk": ("resnet", "disk", 2, 4),
  "dense, stacked, three to a pass": ("dense", "memory", 6, 12),
  "dense, float32 rows": ("dense", "float32", 3, 12),
  "dense, float32 rows on disk": ("dense", "float32_disk", 3, 12),
}


def digest(spectrum: object) -> str:
  """Returns a digest of the tridiagonal matrices and residuals of a `Spectrum`."""
  result = hashlib.blake2b(digest_size=8)
  for array in (*spectrum.diagonals, *spectrum.off_diagonals, spectrum.residuals):
    result.update(array.tobytes())
  return result.hexdigest()


def child(model: str, kind: str, draws: int, steps: int, folder: str) -> str:
  """Makes a run by the version that can be imported here; returns the digest of its result.

  Args:
    model: "resnet" or "dense".
    kind: of the basis, in the words of version 0.1.0.
    draws: number of draws, of which three share a pass of the dense network.
    steps: Lanczos steps.
    folder: the run's folder; "" for none.
  """
  import tf_hessian

  operator = _operator(model)
  options = {"num_draws": draws, "lanczos_steps": steps, "check": False, "progress": False}
  options["workdir"] = folder or None
  per_pass = 3 if model == "dense" else draws
  if hasattr(tf_hessian, "Storage"):
    place, _, rest = kind.partition("_")
    pairs = {"float32": (rest or "memory", "float32")}
    storage = tf_hessian.Storage(*pairs.get(place, (kind, "auto")), vectors_per_pass=per_pass)
    return digest(tf_hessian.spectral_density(operator, storage=storage, **options))
  return digest(
    tf_hessian.estimate_spectrum(operator, basis=kind, draws_per_pass=per_pass, **options)
  )


def _operator(model):
  import keras
  import numpy as np

  import tf_hessian
  from tf_hessian.models.cifar_resnet import cifar_resnet

  keras.utils.set_random_seed(0)
  rng = np.random.default_rng(0)
  shape = (32, 32, 3) if model == "resnet" else (20,)
  batches = [
    (rng.standard_normal((8, *shape), np.float32), rng.integers(0, 10, 8)) for _ in range(2)
  ]
  layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(10)]
  network = (
    cifar_resnet(depth=14) if model == "resnet" else keras.Sequential([keras.Input(shape), *layers])
  )
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return tf_hessian.HessianOperator(network, loss, batches, training=True)


def _by_child(tree, *arguments, folder=""):
  from benchmarks import baseline as baseline_lib

  arguments = json.dumps([*arguments, str(folder)])
  return baseline_lib.run_python(
    tree, [ROOT / "benchmarks" / "bits.py", "--child", arguments]
  ).split()[-1]


def _by_command(tree, module, *arguments):
  from benchmarks import baseline as baseline_lib
  from tf_hessian.spectrum import Spectrum

  with tempfile.TemporaryDirectory() as folder:
    baseline_lib.run_python(
      tree, ["-m", f"tf_hessian.bin.{module}", *arguments, f"--workdir={folder}"]
    )
    return digest(Spectrum.load(pathlib.Path(folder, "spectrum_initial", "spectrum.npz")))


def _gone_on(baseline):
  """Returns the digests of a run, and of one whose first draws are the baseline's."""
  with tempfile.TemporaryDirectory() as folder:
    _by_child(baseline, "dense", "disk", 3, 12, folder=folder)
    return _by_child(ROOT, "dense", "disk", 6, 12), _by_child(
      ROOT, "dense", "disk", 6, 12, folder=folder
    )


def compare(baseline: pathlib.Path, only: str = "") -> int:
  """Prints a line for each run whose name has a text in it; returns how many differ."""
  ways = [(name, _by_child, arguments) for name, arguments in CHILDREN.items()]
  ways += [(name, _by_command, arguments) for name, arguments in COMMANDS.items()]
  results = {}
  for name, make, arguments in ways:
    if only in name:
      results[name] = tuple(make(tree, *arguments) for tree in (baseline, ROOT))
      print(_line(name, *results[name]), flush=True)
  name = "begun by the baseline, ended here"
  if only in name:
    results[name] = _gone_on(baseline)
    print(_line(name, *results[name]), flush=True)
  different = sum(a != b for a, b in results.values())
  print(f"{len(results) - different} of {len(results)} are bitwise equal")
  return different


def _line(name, first, second):
  return f"{name:44s} {first}  {second}  {'equal' if first == second else 'DIFFERENT'}"


def main() -> int:
  """Reads the arguments; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--baseline", default="335cb3a", help="commit to compare with")
  parser.add_argument("--only", default="", help="runs with this text in their names")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.child:
    print(child(*json.loads(options.child)))
    return 0
  from benchmarks import baseline as baseline_lib

  with baseline_lib.checked_out(options.baseline) as tree:
    return 1 if compare(tree, options.only) else 0


if __name__ == "__main__":
  sys.exit(main())
