"""Filter normalization of scale-invariant models."""

from __future__ import annotations

import keras
import numpy as np

_OTHERS = (
  keras.layers.Conv1D,
  keras.layers.Conv2DTranspose,
  keras.layers.Conv3D,
  keras.layers.DepthwiseConv2D,
  keras.layers.SeparableConv2D,
)


def normalize_filters(model: keras.Model, /) -> None:
  """Rescales each convolution filter to unit norm, in place.

  The function that the model computes stays the same.

  Where batch normalization follows a convolution, the scale of a filter has no influence on the
  outputs, but it has on the Hessian; unit norms make spectra of such models comparable. The moving
  statistics are rescaled with the filters. What remains of a change comes from the normalization's
  epsilon. Frozen convolutions stay as they are.

  Args:
    model: a Keras model each of whose trainable convolutions (`Conv2D`) goes to a batch
      normalization of its own and to nothing else.

  Raises:
    ValueError: if there are no convolutions, some are not followed so, or a filter can't be
      rescaled; it names them. The model is then unchanged.
  """
  layers = [x for x in model._flatten_layers(include_self=False) if x.trainable]
  convolutions = [x for x in layers if isinstance(x, keras.layers.Conv2D)]
  followers = _followers(model)
  bad = [x.name for x in convolutions if x.name not in followers]
  bad += [x.name for x in layers if isinstance(x, _OTHERS) and x.name not in bad]
  if not convolutions or bad:
    raise ValueError(
      "filter normalization: expected a model whose convolutions are Conv2D and each go to a batch "
      f"normalization of their own, got {', '.join(bad) or 'no convolution'}"
    )
  norms = {}
  for convolution in convolutions:
    kernel = convolution.kernel.numpy().astype(np.float64)
    norms[convolution.name] = norm = np.sqrt(np.sum(np.square(kernel), axis=(0, 1, 2)))
    statistics = followers[convolution.name].moving_variance.numpy()
    with np.errstate(all="ignore"):
      rescaled = statistics / norm.astype(statistics.dtype) ** 2
    if not (np.isfinite(norm).all() and np.isfinite(rescaled).all()):
      raise ValueError(
        f"filter normalization: layer {convolution.name!r} has a filter that is zero, or too small "
        "or not finite"
      )
  for convolution in convolutions:
    norm, statistics = norms[convolution.name], followers[convolution.name]
    convolution.kernel.assign(convolution.kernel.numpy() / norm)
    if convolution.use_bias:
      convolution.bias.assign(convolution.bias.numpy() / norm)
    statistics.moving_mean.assign(statistics.moving_mean.numpy() / norm)
    statistics.moving_variance.assign(statistics.moving_variance.numpy() / norm**2)


def _followers(model):
  """Returns the batch normalizations that are all a convolution goes to.

  A dict: name of the convolution -> layer.
  """
  found = {}
  for part in [model, *(x for x in model._flatten_layers() if isinstance(x, keras.Model))]:
    part = getattr(part, "_functional", part)  # of a sequence
    # Those of other models that the layers are part of are not in it.
    nodes = {n for level in getattr(part, "_nodes_by_depth", {}).values() for n in level}
    ends = {id(t) for t in getattr(part, "outputs", ())}
    for layer in getattr(part, "layers", ()):
      if not isinstance(layer, keras.layers.Conv2D):
        continue
      users = [n.operation for n in layer._outbound_nodes if n in nodes]
      sources = [n for n in layer._inbound_nodes if n in nodes]
      if len(users) != 1 or len(sources) != 1 or layer.activation is not keras.activations.linear:
        continue
      if ends & {id(t) for t in sources[0].outputs} or layer.data_format != "channels_last":
        continue
      if _normalizes(users[0], nodes, len(layer.output.shape) - 1):
        found[layer.name] = users[0]
  return found


def _normalizes(layer, nodes, axis):
  """Returns whether a layer is a batch normalization that is used once."""
  if not isinstance(layer, keras.layers.BatchNormalization) or getattr(layer, "renorm", False):
    return False
  uses = [n for n in layer._inbound_nodes if n in nodes]
  return len(uses) == 1 and layer.axis in (axis, -1)
