"""A small network, its Jacobian, and numbers for it."""

import random

import keras
from keras import layers
import numpy as np
import tensorflow as tf

# Sums of some thousand terms, rounded to 1e-16.
FLOAT64 = 1e-12


def numbers(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def network(outputs=3, regularizer=None):
  random.seed(0)
  return keras.Sequential(
    [
      keras.Input((4,)),
      layers.Dense(5, "tanh", kernel_regularizer=regularizer),
      layers.Dense(outputs),
    ]
  )


def jacobians(model, data):
  """Returns the outputs (examples, units) and J (examples, units, n)."""
  x = np.concatenate([batch[0] for batch in data])
  with tf.GradientTape() as tape:
    z = model(x)
  found = tape.jacobian(z, [v.value for v in model.trainable_variables])
  return z.numpy(), np.concatenate([np.reshape(j, (*z.shape, -1)) for j in found], axis=-1)
