"""A strategy with how its workers share the batches is checked when it is made."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.distribute import engines
from tf_hessian.distribute.sharing import Sharing


@pytest.mark.parametrize(
  "options, error, message",
  [
    ({"num_shards": 0}, ValueError, "num_shards: expected an integer of at least 1, got 0"),
    ({"num_shards": 2.0}, TypeError, "num_shards: expected an integer of at least 1, got 2.0"),
    ({"num_shards": True}, TypeError, "num_shards: expected an integer of at least 1, got True"),
    ({"patience": 0}, ValueError, "patience: expected a finite number above 0, got 0"),
    ({"patience": np.nan}, ValueError, "patience: expected a finite number above 0, got nan"),
    ({"patience": "1"}, ValueError, "patience: expected a finite number above 0, got '1'"),
    ({"strategy": "mirrored"}, TypeError, "strategy: expected None or a tf.distribute.Strategy"),
    ({"strategy": Sharing()}, TypeError, "strategy: expected None .* got Sharing"),
  ],
)
def test_what_can_not_be_right_is_refused(options, error, message):
  with pytest.raises(error, match=message):
    Sharing(**options)


def test_it_does_not_change():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Sharing().num_shards = 3


def test_a_plain_strategy_is_shared_by_the_defaults():
  strategy = tf.distribute.OneDeviceStrategy("CPU:0")
  assert Sharing.of(strategy) == Sharing(strategy, num_shards=16, patience=600.0)
  sharing = Sharing(strategy, num_shards=3)
  assert Sharing.of(sharing) is sharing


@pytest.mark.parametrize("how", [lambda s: s, Sharing], ids=["strategy", "sharing"])
def test_the_engine_is_that_of_its_strategy(how):
  assert isinstance(engines.make_engine(how(None)), engines.OneDevice)
  found = engines.make_engine(how(tf.distribute.MirroredStrategy(["CPU:0"])))
  assert isinstance(found, engines.Replicas)


def test_a_strategy_that_shares_nothing_is_refused_with_those_that_do():
  strategy = tf.distribute.get_strategy()
  with pytest.raises(TypeError, match="OneDeviceStrategy, .* got _DefaultDistributionStrategy"):
    tf_hessian.HessianOperator([tf.ones(2)], lambda p, b: p[0] * b, [np.ones(2)], strategy=strategy)
