"""The log of a training."""

import sys
import types

import pytest
import tensorflow as tf

from tf_hessian.training import record


def test_table_is_read_again_up_to_a_step(tmp_path):
  first = record.Record(tmp_path, verbose=False)
  for step in (4, 8, 12):
    first.add({"step": step, "loss": 1 / 3 * step, "seconds": 0.1 * step})
  first.save()
  second = record.Record(tmp_path, verbose=False)
  second.restore(8)
  assert second.rows == first.rows[:2]
  assert second.seconds == first.rows[1]["seconds"]


def test_columns_that_some_rows_lack_are_left_empty(tmp_path):
  log = record.Record(tmp_path, verbose=False)
  log.add({"step": 1, "loss": 2.0, "seconds": 0.0})
  log.add({"step": 2, "loss": 1.5, "test_loss": 1.0, "seconds": 0.0})
  log.save()
  lines = (tmp_path / "train.csv").read_text().splitlines()
  assert lines[:2] == ["step,loss,test_loss,seconds", "1,2.0,,0.0"]
  log.restore(2)
  assert "test_loss" not in log.rows[0]


def test_rows_that_are_given_are_taken_over_without_a_table(tmp_path):
  log = record.Record(tmp_path, verbose=False)
  log.restore(4, [{"step": 4, "loss": 1.0}, {"step": 8, "loss": 0.5}])
  assert log.rows == [{"step": 4, "loss": 1.0}]
  with pytest.raises(OSError):
    log.restore(4)


@pytest.mark.parametrize(
  "content", ["", "a,b\n1,2\n", "step,loss\n1,x\n", "step,loss\n1,nan\n", "step\ninf\n"]
)
def test_damaged_table_is_an_error(tmp_path, content):
  (tmp_path / "train.csv").write_text(content)
  log = record.Record(tmp_path, verbose=False)
  if content:
    with pytest.raises(ValueError, match="train.csv: damaged"):
      log.restore(5)
  else:
    log.restore(5)
    assert log.rows == []


def test_summaries_are_written_where_tensorboard_is_installed(tmp_path, monkeypatch):
  written = []
  monkeypatch.setattr(record.importlib.util, "find_spec", lambda name: name == "tensorboard")
  monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
  monkeypatch.setattr(tf.summary, "scalar", lambda name, value: written.append((name, value)))
  log = record.Record(tmp_path, verbose=False)
  log.add({"step": 3, "loss": 2.0, "accuracy": 0.5, "seconds": 1.0})
  log.save()
  assert sorted(written) == [("accuracy", 0.5), ("loss", 2.0)]
  assert list((tmp_path / "tensorboard").iterdir())


def test_without_tensorboard_there_are_no_summaries(tmp_path, monkeypatch):
  monkeypatch.setattr(record.importlib.util, "find_spec", lambda _: None)
  record.Record(tmp_path, verbose=False).add({"step": 1, "loss": 2.0, "seconds": 0.0})
  assert not (tmp_path / "tensorboard").exists()
