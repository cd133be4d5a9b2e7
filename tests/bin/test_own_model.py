"""What docs/own_model.md says to type: a spectrum of a model and data of the user's own."""

import os
import pathlib
import re
import sys

import keras
import numpy as np
import pytest

from tf_hessian import Eigenpairs, exact_spectrum
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.spectrum import Spectrum

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_model.md").read_text()
CODE = dict(re.findall(r'```python\n"""(\w+\.py)"""\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = re.findall(r"```\npython -m (tf_hessian.bin\.\w+ .*?)```", PAGE, re.DOTALL)
pytestmark = pytest.mark.slow  # four processes, each of which trains or measures

BY_MODEL, PAIRS, BY_CONFIG = (c.replace("\\\n", " ").split() for c in COMMANDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, forked):
  """A folder with the page's files, in which its commands were run."""
  folder = tmp_path_factory.mktemp("own")
  for name, code in CODE.items():
    (folder / name).write_text(code)
  (folder / "configs").symlink_to(ROOT / "configs")
  environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
  commands = (PAIRS, [*BY_CONFIG, "--config.lanczos.draws=2"], [*BY_MODEL, "--plan"])
  for arguments in (["model.py"], *(["-m", *command] for command in commands)):
    process = forked([sys.executable, *arguments], cwd=folder, env=environment)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
  return folder


@pytest.mark.usefixtures("folder")
def test_page_has_both_files():
  assert set(CODE) == {"data.py", "model.py"}


def test_spectrum_is_that_of_the_model_on_the_data(folder):
  found = Spectrum.load(folder / "runs" / "config" / "spectrum" / "spectrum.npz")
  names = {}
  exec(CODE["data.py"], names)
  model = keras.models.load_model(
    folder / "model.keras", custom_objects={"Doubled": names["Doubled"]}
  )
  loss = keras.losses.CategoricalCrossentropy(from_logits=True)
  exact = exact_spectrum(HessianOperator(model, loss, [names["examples"]()])).eigenvalues
  np.testing.assert_allclose(found.largest(5), exact[::-1][:5], rtol=1e-4)
  assert found.num_parameters == 8 * 16 + 16 + 16 * 3 + 3


def test_eigenpairs_are_those_of_the_same_matrix(folder):
  pairs = Eigenpairs.load(folder / "runs" / "own" / "eigenpairs" / "eigenpairs.npz")
  found = Spectrum.load(folder / "runs" / "config" / "spectrum" / "spectrum.npz")
  np.testing.assert_allclose(pairs.values, found.largest(5), rtol=1e-4)


def test_result_records_where_model_and_data_came_from(folder):
  found = Spectrum.load(folder / "runs" / "config" / "spectrum" / "spectrum.npz")
  config = found.config["config"]
  assert config["model"] == {"name": "keras_file", "path": "model.keras"}
  assert config["data"]["function"] == "data.py:examples"
