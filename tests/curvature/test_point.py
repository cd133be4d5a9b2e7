"""Vectors by variable, and a model that is put at another point and back."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.curvature.point import unique_names


def square(parameters, batch):
  return batch * sum(tf.reduce_sum(p**2) for p in parameters)


def make(*parameters):
  return HessianOperator(list(parameters), square, [np.ones(2, np.float32)])


def test_parts_have_the_variables_shapes_in_order(new_operator):
  operator = new_operator()
  v = np.arange(operator.shape[0], dtype=np.float64)
  parts = operator.unflatten(v)
  assert tuple(parts) == operator.parameter_names
  assert tuple(p.shape for p in parts.values()) == operator.parameter_shapes
  np.testing.assert_array_equal(np.concatenate([np.ravel(p) for p in parts.values()]), v)
  np.testing.assert_array_equal(operator.flatten(parts), v)


def test_parts_that_are_left_out_are_zeros(new_operator):
  operator = new_operator()
  name = operator.parameter_names[1]
  found = operator.unflatten(operator.flatten({name: np.ones(operator.parameter_shapes[1])}))
  assert [np.all(part == (n == name)) for n, part in found.items()] == [True] * len(found)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_operators_say_why_they_are_not_copied(duplicate):
  with pytest.raises(TypeError, match="^HessianOperator: an operator can't be pickled or copied"):
    duplicate(make(tf.Variable([1.0])))


def test_equal_names_are_told_apart():
  operator = make(
    tf.Variable(np.ones(2, np.float32), name="a"), tf.Variable(np.ones(3, np.float32), name="a")
  )
  assert list(operator.unflatten(np.zeros(5))) == ["a", "a_1"]


@pytest.mark.parametrize("shape", [(25,), (26, 1), ()])
def test_vector_of_another_shape_is_refused(new_operator, shape):
  with pytest.raises(ValueError, match=r"vector: expected shape \(26,\), got"):
    new_operator().unflatten(np.zeros(shape))


def test_unknown_names_and_other_shapes_are_refused(new_operator):
  operator = new_operator()
  name = operator.parameter_names[0]
  with pytest.raises(ValueError, match=f"unknown variable '{name}s'; did you mean '{name}'"):
    operator.flatten({f"{name}s": 0.0})
  with pytest.raises(ValueError, match=f"{name}: expected shape .*, got \\(7,\\)"):
    operator.flatten({name: np.zeros(7)})


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_model_is_put_back_bitwise_however_it_ends(new_operator, error):
  operator = new_operator()
  before, loss = operator.parameters(), operator.loss()
  try:
    with operator.at(before + 1):
      np.testing.assert_allclose(operator.parameters(), before + 1, rtol=1e-6)
      assert operator.loss() != loss
      if error is not None:
        raise error
  except (ValueError, KeyboardInterrupt):
    assert error is not None
  np.testing.assert_array_equal(operator.parameters(), before)
  assert operator.loss() == loss


def test_model_is_put_back_though_that_is_interrupted(monkeypatch):
  variable = tf.Variable(np.ones(2, np.float32))
  operator = make(variable)
  assign = type(operator)._assign

  def interrupted(*_):
    monkeypatch.setattr(type(operator), "_assign", assign)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt), operator.at(np.zeros(2)):
    monkeypatch.setattr(type(operator), "_assign", interrupted)
  np.testing.assert_array_equal(variable.numpy(), np.ones(2))


def test_points_that_are_none_are_refused(new_operator):
  operator = new_operator()
  for point, message in [(np.full(26, np.nan), "finite numbers"), (np.zeros(3), "expected shape")]:
    with pytest.raises(ValueError, match=message), operator.at(point):
      pass
  with (
    pytest.raises(TypeError, match="can't move what is no variable: parameter_0"),
    make(tf.ones(2)).at(np.zeros(2)),
  ):
    pass


@pytest.mark.parametrize(
  "use",
  [
    lambda o: o.flatten(np.ones(3)),
    lambda o: o.flatten(None),
    lambda o: o.unflatten("gradient"),
    lambda o: o.at(None).__enter__(),
    lambda o: o.at({}).__enter__(),
    lambda o: tf_hessian.solve(o, "gradient", damping=1.0),
    lambda o: tf_hessian.solve(o, o.parameters(), damping=1.0, eigenpairs=np.eye(2)),
    lambda o: tf_hessian.top_eigenpairs(o, 1, start="gradient"),
    lambda o: tf_hessian.loss_along(o, "gradient"),
    lambda o: tf_hessian.loss_along(o, o.unflatten(o.parameters())),
  ],
)
def test_what_is_no_vector_is_a_type_error_that_names_it(hessian, use):
  with pytest.raises(TypeError, match="expected a (vector|dict)|eigenpairs: expected the result"):
    use(hessian)


@pytest.mark.parametrize(
  "names, expected",
  [
    (["w", "w"], ["w", "w_1"]),
    (["w_1", "w", "w"], ["w_1", "w", "w_2"]),
    (["w", "w", "w_1", "w"], ["w", "w_2", "w_1", "w_3"]),
    (["a", "a_1", "a_1", "a"], ["a", "a_1", "a_1_1", "a_2"]),
  ],
)
def test_made_up_names_are_of_no_other_variable(names, expected):
  assert unique_names(names) == expected
  point = [tf.Variable([float(i)], name=n, dtype=tf.float64) for i, n in enumerate(names)]
  operator = tf_hessian.HessianOperator(
    point, lambda p, batch: batch * sum(x[0] ** 2 for x in p), [np.ones(1)]
  )
  v = np.arange(10.0, 10.0 + len(names))
  assert list(operator.unflatten(v)) == expected
  np.testing.assert_array_equal(operator.flatten(operator.unflatten(v)), v)
  operator.assign(v)
  np.testing.assert_array_equal(operator.parameters(), v)


def test_point_that_the_type_can_not_hold_is_not_assigned():
  variable = tf.Variable([1.0, 2.0])
  operator = HessianOperator(
    [variable], lambda p, x: tf.reduce_sum(p[0] ** 2 * x), [np.ones(2, "f4")]
  )
  with pytest.raises(ValueError, match="too large for .*float32"):
    operator.assign([1.0, -1e39])
  np.testing.assert_array_equal(variable, [1, 2])


def test_point_that_is_not_finite_is_not_assigned(new_operator):
  operator = new_operator()
  before = operator.parameters()
  bad = before.copy()
  bad[1] = np.nan
  with pytest.raises(ValueError, match="point"):
    operator.assign(bad)
  np.testing.assert_array_equal(operator.parameters(), before)


def test_complex_parts_are_refused(new_operator):
  operator = new_operator()
  name, part = next(iter(operator.unflatten(operator.parameters()).items()))
  with pytest.raises(TypeError, match="expected real numbers"):
    operator.flatten({name: 1j * part})
