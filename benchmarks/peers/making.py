"""The problems, from the package's models: run where TensorFlow is."""

import keras
import numpy as np

from benchmarks.peers.problem import LENGTH, VOCABULARY, Problem
from benchmarks.peers.transformer import transformer
from tf_hessian.data import cifar10, mnist, tfds
from tf_hessian.models.cifar_resnet import cifar_resnet
from tf_hessian.models.mlp import mlp

MODELS = {"mlp": mlp, "resnet32": cifar_resnet, "transformer": transformer}
_SEED = 0


def model(network):
  """Returns a network with its initial weights, always the same."""
  keras.utils.set_random_seed(_SEED)
  return MODELS[network]()


def make_mlp():
  """Returns the 784-20-10 network on 1,000 digits, which are one batch."""
  images, labels = mnist.arrays()
  return _problem("mlp", images, labels, len(labels))


def make_resnet32(num_batches, batch_size, data_dir=None):
  """Returns ResNet-32 on CIFAR-10, or on random images without a `data_dir`."""
  count = num_batches * batch_size
  if data_dir is None:
    rng = np.random.default_rng(_SEED)
    images = rng.standard_normal((count, 32, 32, 3), np.float32)
    labels = rng.integers(0, 10, count)
  else:
    images, labels = tfds.arrays("cifar10", "train", num_examples=count, data_dir=data_dir)
    images = np.asarray(cifar10.per_image(images), np.float32)
  return _problem("resnet32", images, np.asarray(labels, np.int64), batch_size)


def make_transformer(num_batches, batch_size):
  """Returns the small language model on random tokens, whose labels are the next ones."""
  rng = np.random.default_rng(_SEED)
  tokens = rng.integers(0, VOCABULARY, (num_batches * batch_size, LENGTH + 1))
  return _problem("transformer", tokens[:, :-1].astype(np.int32), tokens[:, 1:], batch_size)


def _problem(network, inputs, labels, batch_size):
  variables = model(network).trainable_variables
  return Problem(
    network=network,
    inputs=inputs,
    labels=labels,
    batch_size=batch_size,
    names=tuple(v.path for v in variables),
    shapes=tuple(tuple(v.shape) for v in variables),
    parameters=np.concatenate([np.ravel(v) for v in variables]),
  )
