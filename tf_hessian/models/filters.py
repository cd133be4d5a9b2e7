"""Filter normalization of scale-invariant models."""

import keras
import numpy as np


def normalize_filters(model, /):
  """Rescales each convolution filter to unit norm, in place, without changing the function.

  Where batch normalization follows a convolution, the scale of a filter has no influence on the
  outputs, but it has on the Hessian; unit norms make spectra of such models comparable. The moving
  statistics are rescaled with the filters. What remains of a change comes from the normalization's
  epsilon.

  Args:
    model: a Keras model each of whose convolutions is followed by batch normalization alone.

  Raises:
    ValueError: if there are no convolutions, or some are not followed so; it names them.
  """
  convolutions = [
    x for x in model._flatten_layers() if isinstance(x, keras.layers.Conv2D) and x.trainable
  ]
  followers = {x.name: _follower(x) for x in convolutions}
  others = [name for name, follower in followers.items() if follower is None]
  if not convolutions or others:
    raise ValueError(
      "filter normalization: expected a model whose convolutions are each followed by batch "
      f"normalization, got {', '.join(others) + ' without' if others else 'no convolution'}"
    )
  for convolution in convolutions:
    kernel = convolution.kernel.numpy()
    norms = np.sqrt(np.sum(np.square(kernel, dtype=np.float64), axis=(0, 1, 2)))
    if not norms.all():
      raise ValueError(f"filter normalization: layer {convolution.name!r} has a filter of zeros")
    convolution.kernel.assign(kernel / norms)
    if convolution.use_bias:
      convolution.bias.assign(convolution.bias.numpy() / norms)
    statistics = followers[convolution.name]
    statistics.moving_mean.assign(statistics.moving_mean.numpy() / norms)
    statistics.moving_variance.assign(statistics.moving_variance.numpy() / norms**2)


def _follower(convolution):
  """Returns the batch normalization that is all that a convolution's output goes to, or None."""
  nodes = convolution._outbound_nodes
  layers = [node.operation for node in nodes]
  identity = convolution.activation is keras.activations.linear
  if identity and len(layers) == 1 and isinstance(layers[0], keras.layers.BatchNormalization):
    return layers[0]
  return None
