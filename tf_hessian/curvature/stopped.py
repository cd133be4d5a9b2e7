"""Places where a model stops gradients of functions of its variables.

What is behind `tf.stop_gradient` is held fixed in the gradient that training takes, and in its
derivative: products are those of the loss with these values frozen. Where they depend on the
variables, that is not the derivative of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_hessian.curvature import linearize, second_order

_STOPPING = frozenset({"PreventGradient", "StopGradient"})
# The maximum that is taken out of an exponential, and put back: its derivatives cancel.
_HARMLESS = ("ReduceLogSumExp", "reduce_logsumexp", "logsumexp")


def stopping_places(
  concretes: Sequence[tf.types.experimental.ConcreteFunction],
  num_parameters: int,
  layers: Sequence[str],
  /,
) -> list[str]:
  """Returns a phrase for each place that stops a gradient.

  The result is a sorted list of phrases such as "layer 'vq'".

  Args:
    concretes: traced functions of the loss, whose first inputs are the parameters.
    num_parameters: how many of these there are.
    layers: names of the model's layers.
  """
  places = set()
  for concrete in concretes:
    changing = linearize.reached(concrete.graph, {x.name for x in concrete.inputs[:num_parameters]})
    for op in concrete.graph.get_operations():
      if op.type not in _STOPPING or any(name in op.name for name in _HARMLESS):
        continue
      if op.inputs[0].name in changing and linearize.depends(
        concrete.outputs, {op.outputs[0].name}
      ):
        places.add(second_order.place_of(op.name, layers))
  return sorted(places)
