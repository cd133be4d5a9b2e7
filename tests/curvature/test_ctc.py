"""The CTC loss that can be differentiated twice is TensorFlow's, and its derivatives are right."""

import itertools
import threading

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tf_hessian.curvature.ctc import ctc_loss, differentiable_ctc
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.second_order import DifferentiationError

EPS32 = np.finfo(np.float32).eps
STEP = 1e-3  # of central differences
CLASSES = 4
FRAMES = 4

# (labels as numbers of the classes that are not the blank, frames); all fit into the frames.
SEQUENCES = [
  ((), 4),
  ((), 0),
  ((0,), 1),
  ((1,), 4),
  ((0, 1), 2),
  ((0, 1), 4),
  ((2, 2), 3),  # with the blank that it needs, nothing is left to choose
  ((2, 2), 4),
  ((0, 1, 2), 4),
  ((1, 1, 0), 4),
]
BLANKS = pytest.mark.parametrize("blank", [0, 2, CLASSES - 1, -1])


def logits_of(count, *, seed=0, frames=FRAMES):
  return 2 * np.random.default_rng(seed).standard_normal((count, frames, CLASSES))


def encode(sequences, blank):
  """Returns padded labels, their lengths and numbers of frames, for one number of the blank."""
  others = [c for c in range(CLASSES) if c != blank % CLASSES]
  labels = np.full((len(sequences), 3), others[0], np.int32)
  for row, (sequence, _) in zip(labels, sequences, strict=True):
    row[: len(sequence)] = [others[i] for i in sequence]
  lengths = np.array([len(sequence) for sequence, _ in sequences], np.int32)
  return labels, lengths, np.array([frames for _, frames in sequences], np.int32)


def collapse(path, blank):
  return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def by_enumeration(logits, labels, frames, blank):
  """Returns -log of the sum over all paths that collapse to the labels, for one sequence."""
  log_probs = scipy.special.log_softmax(logits, axis=-1)
  paths = itertools.product(range(CLASSES), repeat=frames)
  found = [
    sum(log_probs[t, c] for t, c in enumerate(path))
    for path in paths
    if collapse(path, blank) == tuple(labels)
  ]
  return -scipy.special.logsumexp(found)


@BLANKS
def test_the_loss_is_the_sum_over_all_paths(blank):
  labels, lengths, frames = encode(SEQUENCES, blank)
  logits = logits_of(len(SEQUENCES))
  found = ctc_loss(labels, logits, lengths, frames, logits_time_major=False, blank_index=blank)
  expected = [
    by_enumeration(x, row[:length], t, blank % CLASSES)
    for x, row, length, t in zip(logits, labels, lengths, frames, strict=True)
  ]
  # A few roundings a frame; the losses are below 20.
  np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def both(labels, logits, lengths, frames, **how):
  """Returns (loss, gradient) of TensorFlow's and of ours, in float32."""

  @tf.function(autograph=False)
  def differentiate(x, function):
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = function(labels, x, lengths, frames, **how)
    return loss, tape.gradient(loss, x)

  x = tf.constant(logits, tf.float32)
  results = [differentiate(x, function) for function in (tf.nn.ctc_loss, ctc_loss)]
  return [(loss.numpy(), gradient.numpy()) for loss, gradient in results]


@pytest.mark.parametrize(
  "blank, time_major", [(0, True), (0, False), (2, True), (CLASSES - 1, True), (-1, False)]
)
def test_loss_and_gradient_are_those_of_tensorflow(blank, time_major):
  labels, lengths, frames = encode(SEQUENCES, blank)
  logits = logits_of(len(SEQUENCES))
  logits = logits.transpose(1, 0, 2) if time_major else logits
  theirs, ours = both(
    labels, logits, lengths, frames, logits_time_major=time_major, blank_index=blank
  )
  np.testing.assert_allclose(ours[0], theirs[0], rtol=8 * EPS32, atol=8 * EPS32)
  np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=16 * EPS32)


@pytest.mark.slow
def test_long_sequences_keep_their_digits():
  # The loss is some 500: without scaling, gradients would have its absolute rounding error.
  rng = np.random.default_rng(0)
  logits, labels = 3 * rng.standard_normal((2, 200, 20)), rng.integers(1, 20, (2, 30))
  lengths, frames = np.array([30, 17]), np.array([200, 150])
  theirs, ours = both(labels, logits, lengths, frames, logits_time_major=False)
  np.testing.assert_allclose(ours[0], theirs[0], rtol=16 * EPS32)
  np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=200 * EPS32)


NO_PATH = [((0, 1, 2), 2), ((1, 1), 2), ((0, 1, 1), 3), ((0,), 0)]


@pytest.mark.slow
def test_labels_without_room_have_the_loss_of_tensorflow_and_finite_derivatives():
  labels, lengths, frames = encode(NO_PATH, 0)
  logits = logits_of(len(NO_PATH))
  theirs, ours = both(labels, logits, lengths, frames, logits_time_major=False)
  assert np.all(ours[0] > 700)
  np.testing.assert_allclose(ours[0], theirs[0], rtol=8 * EPS32)
  assert np.isfinite(ours[1]).all()
  hessian = hessian_of(labels, logits, lengths, frames)
  assert np.isfinite(hessian).all()


def gradient_of(labels, lengths, frames, **how):
  """Returns a graph function: float64 logits -> gradient of the sum of the losses."""

  @tf.function(autograph=False)
  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(ctc_loss(labels, x, lengths, frames, logits_time_major=False, **how))
    return tape.gradient(loss, x)

  return gradient


def directions(logits):
  """Yields each unit vector of one sequence's logits, for all sequences at once."""
  _, *shape = logits.shape
  for e in np.eye(np.prod(shape)):
    yield np.broadcast_to(np.reshape(e, shape), logits.shape)


def stacked(rows):
  """Returns the matrix of each sequence: (sequences, n, n)."""
  rows = np.stack(rows, axis=1)
  return rows.reshape(*rows.shape[:2], -1)


def hessian_of(labels, logits, lengths, frames, **how):
  """Returns the second derivative of each sequence's loss, backward over backward."""
  gradient = gradient_of(labels, lengths, frames, **how)

  @tf.function(autograph=False)
  def product(x, v):
    with tf.GradientTape() as tape:
      tape.watch(x)
      g = gradient(x)
    return tape.gradient(g, x, output_gradients=v)

  x = tf.constant(logits, tf.float64)
  return stacked([product(x, tf.constant(v)).numpy() for v in directions(logits)])


def differences_of(labels, logits, lengths, frames, **how):
  """Returns the same by central differences of gradients, fourth order."""
  gradient = gradient_of(labels, lengths, frames, **how)
  weights = {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}
  rows = [
    sum(w * gradient(tf.constant(logits + k * STEP * v)).numpy() for k, w in weights.items())
    for v in directions(logits)
  ]
  return stacked(rows) / STEP


@pytest.mark.slow
@pytest.mark.parametrize("blank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_the_second_derivative_is_the_difference_of_gradients(blank):
  sequences = [((0, 1), 4), ((2, 2), 3), ((1, 1, 0), 4), ((), 2), ((1,), 4), ((2, 2), 4)]
  labels, lengths, frames = encode(sequences, blank)
  logits = logits_of(len(sequences))
  found = hessian_of(labels, logits, lengths, frames, blank_index=blank)
  expected = differences_of(labels, logits, lengths, frames, blank_index=blank)
  # The differences' own error: step^4 = 1e-12 times fifth derivatives, and eps / step = 2e-13.
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-11)
  # Both tapes differentiate the same operations, so the rounding is that of a few frames.
  np.testing.assert_allclose(found, found.transpose(0, 2, 1), rtol=0, atol=1e-14)
  sizes = np.linalg.norm(found, axis=(1, 2))
  assert np.all(sizes > 0.1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_loss_has_the_dtype_of_the_logits(dtype):
  labels, lengths, frames = encode(SEQUENCES[:3], 0)
  logits = tf.cast(logits_of(3), dtype)
  loss = ctc_loss(labels, logits, lengths, frames, logits_time_major=False)
  assert loss.dtype == dtype
  expected = ctc_loss(labels, tf.cast(logits, tf.float64), lengths, frames, False)
  limit = {"float64": 1e-14, "float32": 1e-6}.get(dtype, 2**-8)
  np.testing.assert_allclose(tf.cast(loss, tf.float64), expected, rtol=limit, atol=limit)


def test_labels_of_length_zero_throughout_are_all_blanks():
  logits = logits_of(2)
  found = ctc_loss(np.zeros((2, 0), np.int32), logits, [0, 0], [4, 2], logits_time_major=False)
  log_probs = scipy.special.log_softmax(logits, axis=-1)[..., 0]
  np.testing.assert_allclose(found, [-log_probs[0].sum(), -log_probs[1, :2].sum()], rtol=1e-14)


def test_sparse_labels_are_refused_with_the_remedy():
  labels = tf.sparse.from_dense([[1, 2]])
  with pytest.raises(DifferentiationError, match=r"sparse labels .*tf\.sparse\.to_dense"):
    ctc_loss(labels, logits_of(1), None, [4], blank_index=0)


# In place of TensorFlow's.


def keras_functions():
  return tf.nn.ctc_loss, keras.src.backend.nn.ctc_loss


def test_the_functions_are_put_back_also_after_an_error():
  before = keras_functions()
  with differentiable_ctc(), differentiable_ctc():
    assert all(a is not b for a, b in zip(before, keras_functions(), strict=True))
  assert keras_functions() == before
  with pytest.raises(ValueError, match="inside"), differentiable_ctc():
    raise ValueError("inside")
  assert keras_functions() == before


def test_threads_take_turns():
  before = keras_functions()
  entered = []

  def enter():
    with differentiable_ctc():
      entered.append(tf.nn.ctc_loss)

  with differentiable_ctc():
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(0.05)
    assert not entered
  thread.join(20)
  assert entered == [ctc_loss] and keras_functions() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_of_keras_is_replaced_in_its_dtype(dtype):
  labels, _, _ = encode([((0, 1), 4), ((2, 2), 4)], 0)
  labels[:, 2] = 0
  logits = tf.constant(logits_of(2), dtype)
  loss = keras.losses.CTC(reduction=None, dtype=dtype)
  theirs = loss(labels, logits)
  with differentiable_ctc():
    ours = loss(labels, logits)
  assert ours.dtype == theirs.dtype == dtype
  np.testing.assert_allclose(ours, theirs, rtol=8 * EPS32)  # Keras rounds to float32
  exact = ctc_loss(labels, tf.cast(logits, tf.float64), [2, 2], [4, 4], logits_time_major=False)
  np.testing.assert_allclose(ours, exact, rtol=1e-14 if dtype == "float64" else 8 * EPS32)


@pytest.mark.usefixtures("float64")
def test_products_of_a_model_are_differences_of_its_gradients(relative_error, assign):
  model = keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(3, "tanh")])
  model.add(keras.layers.Dense(CLASSES))
  rng = np.random.default_rng(0)
  x = rng.standard_normal((4, 4, 2))
  y = np.array([[1, 2, 0], [3, 3, 0], [1, 2, 3], [0, 0, 0]])
  with differentiable_ctc():
    operator = HessianOperator(model, keras.losses.CTC(), [(x[:2], y[:2]), (x[2:], y[2:])])
    v = rng.standard_normal(operator.shape[0])
    v /= np.linalg.norm(v)
    product = operator @ v
    point, gradient = operator.parameters(), operator.gradient()
  assert operator.mode == "backward_over_backward"
  differences = 0
  for k, weight in {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}.items():
    assign(operator, point + k * STEP * v)
    differences = differences + weight * operator.gradient() / STEP
  # As above, relative to a product of length 0.1.
  assert relative_error(product, differences) < 1e-9
  assert np.linalg.norm(gradient) > 0.01
