"""TensorFlow's noise is left out, and nothing else."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian import quiet


def said(code, **environment):
  """Returns what a program says on its standard error."""
  env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | environment
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr
  return done.stderr


def test_first_use_is_silent():
  assert said("import tf_hessian; tf_hessian.HessianOperator") == ""


def test_who_asks_tensorflow_to_speak_hears_it():
  code = "from tf_hessian import quiet; quiet.import_quietly(); import sys; print(sys.meta_path[0])"
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},
    check=True,
  )
  assert "quiet" not in done.stdout


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_no_noise_is_written_afterwards(capfd, fails):
  lines = [
    b"I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on. You may see\n",
    b"W0000 00:00:1 1 gpu.cc:1] Cannot dlopen some GPU libraries.\n",
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    b"mine\n",
  ]
  try:
    with quiet.turned_away():
      for line in lines:
        os.write(2, line)
      if fails:
        raise ImportError
  except ImportError:
    assert fails
  assert capfd.readouterr().err == (lines[1] + lines[3]).decode()


def test_process_without_a_standard_error_goes_on():
  said("import os; os.close(2); from tf_hessian import quiet\nwith quiet.turned_away(): pass")


@pytest.mark.slow
def test_loops_that_tensorflow_vectorizes_by_are_not_remarked(caplog):
  convolutions = [keras.layers.Conv2D(2, 2), keras.layers.Conv2D(2, 2)]
  layers = [*convolutions, keras.layers.Flatten(), keras.layers.Dense(1)]
  model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
  data = [(np.ones((2, 4, 4, 1), np.float32), np.ones((2, 1), np.float32))]
  operator = tf_hessian.HessianOperator(model, "mse", data)
  operator.vectorized = True
  logger = tf.get_logger()
  logger.addHandler(caplog.handler)
  try:
    operator.products(np.ones((2, operator.shape[0])))
    tf.get_logger().warning("another remark")
  finally:
    logger.removeHandler(caplog.handler)
  assert "while_loop" not in caplog.text and "another remark" in caplog.text
