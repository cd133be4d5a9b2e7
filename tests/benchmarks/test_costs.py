"""The networks whose costs are measured."""

import pytest

from benchmarks import costs
from tf_hessian.experiments import experiment


@pytest.mark.parametrize("name", costs.CASES)
def test_network_takes_the_images_that_it_is_measured_with(name):
  case = costs.CASES[name]
  model = experiment.MODELS[case.build](**case.options)
  assert model.input_shape[1:] == case.shape
  assert model.output_shape[-1] >= case.classes
