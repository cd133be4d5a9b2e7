"""What a result records of where it was made."""

import json
import platform
import re

import keras
import numpy
import pytest
import scipy
import tensorflow as tf

import tf_hessian
from tf_hessian.slq import provenance


@pytest.mark.parametrize(
  "name, version",
  [
    ("tf_hessian", tf_hessian.__version__),
    ("python", platform.python_version()),
    ("tensorflow", tf.__version__),
    ("keras", keras.__version__),
    ("numpy", numpy.__version__),
    ("scipy", scipy.__version__),
  ],
)
def test_version_is_recorded(name, version):
  assert provenance.versions()[name] == version


def test_every_version_is_known():
  assert all(re.match(r"\d+\.\d+", v) for v in provenance.versions().values())


def test_versions_are_json():
  assert json.loads(json.dumps(provenance.versions())) == provenance.versions()


def test_device_without_accelerator_is_the_processor(monkeypatch):
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
  assert re.fullmatch(rf"CPU {platform.machine()}, \d+ cores", provenance.device())


def test_device_names_the_accelerators(monkeypatch):
  device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
  monkeypatch.setattr(
    tf.config, "list_physical_devices", lambda kind: [device] * 2 if kind == "GPU" else []
  )
  monkeypatch.setattr(
    tf.config.experimental, "get_device_details", lambda _: {"device_name": "H100"}
  )
  assert provenance.device() == "H100, H100"
