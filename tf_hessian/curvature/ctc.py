"""The CTC loss in operations that TensorFlow can differentiate twice.

`tf.nn.ctc_loss` brings its own gradient, which has none itself. Here the loss is the forward
recursion of Graves et al., "Connectionist Temporal Classification" (ICML 2006), over the states of
the label sequence: l_0, where every path begins, blank_0, l_1, blank_1, ..., l_L, blank_L. It gives
the values of `tf.nn.ctc_loss` to rounding, also where labels don't fit into the frames.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_hessian.curvature import keras_internals, second_order

# In place of minus infinity, whose differences are NaN: no path of a state has this.
_NEVER = -1e30
# TensorFlow's for paths that end before the last label, or after it; only they are left where the
# labels don't fit into the frames.
_WRONG_END = float(np.log(1e-307))


def ctc_loss(
  labels: Any,
  logits: Any,
  label_length: Any,
  logit_length: Any,
  logits_time_major: bool = True,
  unique: Any = None,
  blank_index: int | None = None,
  name: str | None = None,
) -> tf.Tensor:
  """Returns -log P(labels | logits) of each sequence.

  The values are those of `tf.nn.ctc_loss` with dense labels. Where the labels don't fit into the
  frames, P is 1e-307 times that of paths that end too early: a loss of about 707, as in TensorFlow.
  The derivatives are those of that loss, while TensorFlow's gradient is not; give such sequences
  the sample weight 0.

  Args:
    labels: (batch, labels) integers, padded.
    logits: (frames, batch, classes), or (batch, frames, classes) if not `logits_time_major`.
    label_length: (batch,) integers, the numbers of labels.
    logit_length: (batch,) integers, the numbers of frames.
    logits_time_major: whether frames come first in `logits`; True by default, as in TensorFlow.
    unique: not used: it only makes TensorFlow's own loss faster, whose signature this is.
    blank_index: class of the blank, 0 by default; negative from the end.
    name: name scope of the operations; None for "ctc_loss".

  Returns:
    (batch,) in the dtype of `logits`; float16 and bfloat16 are computed in float32.

  Raises:
    DifferentiationError: for sparse labels.
  """
  del unique
  if isinstance(labels, tf.SparseTensor):
    raise second_order.DifferentiationError(
      "tf.nn.ctc_loss of sparse labels has no second derivative in TensorFlow; give dense labels "
      "(tf.sparse.to_dense) and their label_length"
    )
  with tf.name_scope(name or "ctc_loss"):
    logits = tf.convert_to_tensor(logits)
    dtype = logits.dtype
    logits = tf.cast(logits, tf.float32) if dtype.size == 2 else logits
    logits = logits if logits_time_major else tf.transpose(logits, [1, 0, 2])
    log_probs, labels = _blank_first(tf.nn.log_softmax(logits), labels, blank_index or 0)
    loss = _forward(log_probs, labels, tf.cast(label_length, tf.int32), logit_length)
    return tf.cast(loss, dtype)


def _blank_first(log_probs, labels, blank):
  """Returns both with the classes in the order blank, the others."""
  labels = tf.cast(labels, tf.int32)
  if blank < 0:
    blank += log_probs.shape[-1]
  if blank == 0:
    return log_probs, labels
  parts = [log_probs[..., blank : blank + 1], log_probs[..., :blank], log_probs[..., blank + 1 :]]
  return tf.concat(parts, -1), tf.where(labels < blank, labels + 1, labels)


def _forward(log_probs, labels, label_length, logit_length):
  """Returns the loss of each sequence, (batch,).

  The blank is class 0, and frames come first.
  """
  dtype = log_probs.dtype
  frames, batch, classes = tf.unstack(tf.shape(log_probs))
  never = tf.fill([batch, 1], tf.constant(_NEVER, dtype))
  # Linear in the logarithms, and without a gather, whose derivatives cost more.
  of_labels = tf.einsum("tbc,blc->tbl", log_probs, tf.one_hot(labels, classes, dtype=dtype))
  first = tf.broadcast_to(never, [frames, batch, 1])
  of_labels = tf.concat([first, of_labels], -1)
  of_blank = log_probs[..., :1]
  # From label to label, without a blank between them, only if they differ.
  differ = tf.concat([tf.ones_like(labels[:, :1], tf.bool), labels[:, 1:] != labels[:, :-1]], 1)
  skip = tf.where(differ, tf.zeros([], dtype), tf.constant(_NEVER, dtype))
  used = tf.transpose(tf.sequence_mask(logit_length, frames))[..., None]

  def step(state, frame):
    label, blank, scale = state
    by_label, by_blank, is_used = frame
    ways = [label[:, 1:], blank[:, :-1], label[:, :-1] + skip]
    new_label = tf.concat([never, tf.reduce_logsumexp(ways, axis=0)], 1) + by_label
    new_blank = tf.reduce_logsumexp([blank, label], axis=0) + by_blank
    # So that float32 has its digits for what is likely. The constant drops out of derivatives.
    top = tf.reduce_max(tf.maximum(new_label, new_blank), axis=1, keepdims=True)
    top = tf.stop_gradient(tf.where(is_used, top, tf.zeros_like(top)))
    return (
      tf.where(is_used, new_label - top, label),
      tf.where(is_used, new_blank - top, blank),
      scale + top,
    )

  zero = tf.zeros([batch, 1], dtype)
  rest = tf.broadcast_to(never, tf.shape(labels))
  start = (tf.concat([zero, rest], 1), tf.concat([never, rest], 1), zero)
  label, blank, scale = tf.foldl(step, (of_labels, of_blank, used), start)
  end = tf.one_hot(label_length, tf.shape(label)[1], tf.zeros([], dtype), _WRONG_END, dtype=dtype)
  total = tf.reduce_logsumexp(tf.concat([label + end, blank + end], 1), axis=1)
  return -(total + scale[:, 0])


def _keras_ctc_loss(target, output, target_length, output_length, mask_index=0):
  """Computes Keras's CTC loss without its rounding of float64 to float32."""
  output = tf.convert_to_tensor(output)
  dtype = tf.float64 if output.dtype == tf.float64 else tf.float32
  return ctc_loss(
    labels=target,
    logits=tf.cast(output, dtype),
    label_length=target_length,
    logit_length=output_length,
    blank_index=mask_index,
    logits_time_major=False,
  )


_PLACES = ((tf.nn, ctc_loss), (keras_internals.ctc_module(), _keras_ctc_loss))


def differentiable_ctc() -> contextlib.AbstractContextManager[None]:
  """Makes the CTC loss of functions traced inside twice differentiable."""
  return keras_internals.replaced(
    *((module, "ctc_loss", function) for module, function in _PLACES if module is not None)
  )
