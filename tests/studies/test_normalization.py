"""Trainings that studies make."""

import pytest

from tf_hessian.studies import normalization
from tf_hessian.studies.context import Context
from tf_hessian.training.train import DivergedError

ROWS = "step,loss,seconds\n20,2.3,5.5\n"


@pytest.mark.parametrize("text, cost", [(ROWS, 5.5), (None, 0.0)], ids=["later", "at once"])
def test_divergence_is_an_error_whose_cost_counts(tmp_path, monkeypatch, text, cost):
  def train(config, folder, **_):  # noqa: ARG001
    folder.mkdir()
    if text:
      (folder / "train.csv").write_text(text)
    raise DivergedError("training: the loss is nan")

  monkeypatch.setattr(normalization, "train", train)
  context, folder = Context(tmp_path, progress=False), tmp_path / "training"
  before = context.costs.total()
  with pytest.raises(DivergedError):
    normalization.trained(context, None, folder)
  assert [row["loss"] for row in normalization.log(folder)] == ([2.3] if text else [])
  assert context.costs.total() - before == pytest.approx(cost, abs=0.5)
