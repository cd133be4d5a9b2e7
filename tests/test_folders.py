"""Folders of one run each: whose they are, locks, and what was left by those who were killed."""

import os
import re
import subprocess
import sys

import pytest

from tf_hessian import files, folders

KIND = folders.Kind(
  "box",
  "box.json",
  made=re.compile(r"item_\d\.txt|inner/part_\d\.txt"),
  below=re.compile("inner"),
  beside=re.compile("other"),
)
TEXT = "the record"


def check(found):
  if found != TEXT:
    raise ValueError("of something else")


def take(path):
  return folders.OwnedFolder(path, KIND, TEXT, check)


def names(path):
  return sorted(os.listdir(path))


# Whose it is.


@pytest.mark.parametrize("there", [True, False])
def test_new_or_empty_folder_gets_the_record(tmp_path, there):
  path = tmp_path / "a" / "b"
  if there:
    path.mkdir(parents=True)
  with take(path):
    assert names(path) == ["box.json", "lock"]
  assert (path / "box.json").read_text() == TEXT


@pytest.mark.parametrize("name", ["item_0.txt", "notes", "inner", ".box.json.original", "box.jso"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_folder_with_anything_but_a_record_is_refused(tmp_path, name, is_folder):
  if is_folder:
    (tmp_path / name).mkdir()
  else:
    (tmp_path / name).write_text("mine")
  with pytest.raises(ValueError, match=f"{tmp_path}: it holds {name}, but no box.json.*new or em"):
    take(tmp_path)
  assert names(tmp_path) == [name]


def test_refusal_shows_a_few_of_many_files(tmp_path):
  for i in range(9):
    (tmp_path / f"file_{i}").write_text("")
  with pytest.raises(ValueError, match="it holds file_0, file_1, file_2 and 6 more, but"):
    take(tmp_path)


def test_lock_of_the_users_is_not_opened(tmp_path):
  (tmp_path / "lock").write_text("mine")
  with pytest.raises(ValueError, match="it holds lock"):
    take(tmp_path)
  assert (tmp_path / "lock").read_text() == "mine"


def test_empty_lock_of_an_earlier_version_leaves_a_folder_empty(tmp_path):
  (tmp_path / "lock").write_text("")
  take(tmp_path).close()


def test_folders_of_other_runs_may_be_there(tmp_path):
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "item_1.txt").write_text("")
  with take(tmp_path) as folder:
    assert folder.made() == []


def test_record_of_another_run_is_refused_before_anything_is_written(tmp_path):
  (tmp_path / "box.json").write_text("another")
  with pytest.raises(ValueError, match="of something else"):
    take(tmp_path)
  assert names(tmp_path) == ["box.json"]


def test_record_that_is_no_text_is_damaged(tmp_path):
  (tmp_path / "box.json").write_bytes(b"\xff\xfe")
  with pytest.raises(ValueError, match="box.json: damaged"):
    take(tmp_path)


def test_only_exact_names_are_those_that_were_made(tmp_path):
  take(tmp_path).close()
  (tmp_path / "inner").mkdir()
  for name in ("item_1.txt", "item_11.txt", "xitem_1.txt", "item_1.txt~", "inner/part_2.txt"):
    (tmp_path / name).write_text("")
  for name in ("part_3.txt", "inner/item_4.txt"):
    (tmp_path / name).write_text("")
  with take(tmp_path) as folder:
    assert folder.made() == [tmp_path / "inner/part_2.txt", tmp_path / "item_1.txt"]


@pytest.mark.parametrize("name", ["box.json", "lock", "item_3.txt", "inner/part_3.txt"])
@pytest.mark.parametrize("kind", ["folder", "link", "dangling", "pipe"])
def test_anything_else_in_the_place_of_a_file_is_refused(tmp_path, name, kind):
  path, outside = tmp_path / "run" / name, tmp_path / "outside"
  take(tmp_path / "run").close()
  (tmp_path / "run" / "inner").mkdir()
  path.unlink(missing_ok=True)
  if kind == "folder":
    path.mkdir()
  elif kind == "pipe":
    os.mkfifo(path)
  else:
    path.symlink_to(outside)
    if kind == "link":
      outside.write_text(TEXT)
  with pytest.raises(ValueError, match=f"{path}: expected a file of this run, found"):
    take(tmp_path / "run")
  assert outside.exists() == (kind == "link")
  assert kind != "link" or outside.read_text() == TEXT


def test_link_in_the_place_of_a_folder_is_refused(tmp_path):
  take(tmp_path / "run").close()
  (tmp_path / "run" / "inner").symlink_to(tmp_path)
  with pytest.raises(ValueError, match="inner: expected a folder of this run, found a link"):
    take(tmp_path / "run")


def test_folder_itself_may_be_a_link(tmp_path):
  (tmp_path / "disk").mkdir()
  (tmp_path / "run").symlink_to(tmp_path / "disk")
  take(tmp_path / "run").close()
  assert names(tmp_path / "disk") == ["box.json", "lock"]


def test_file_of_another_run_keeps_its_content_under_another_name(tmp_path):
  with take(tmp_path) as folder:
    (tmp_path / "item_1.txt").write_text("good")
    folder.set_aside(tmp_path / "item_1.txt", "0123")
  assert (tmp_path / "item_1_of_0123.txt").read_text() == "good"


# Locks, and those who were killed.


def test_second_lock_is_refused_until_the_first_is_given_back(tmp_path):
  with take(tmp_path), pytest.raises(ValueError, match=f"{tmp_path}: another process is working"):
    take(tmp_path)
  take(tmp_path).close()


KILLED = """
import os, signal, sys
from tf_hessian import files, folders
{}
"""


def kill_in(code, *arguments):
  """Runs code that kills its own process."""
  command = [sys.executable, "-c", KILLED.format(code), *map(str, arguments)]
  done = subprocess.run(command, timeout=60)
  assert done.returncode == -9


def test_temporary_file_of_a_killed_writer_is_removed_at_the_next_start(tmp_path):
  take(tmp_path).close()
  (tmp_path / "inner").mkdir()
  for path in (tmp_path / "item_1.txt", tmp_path / "inner" / "part_1.txt"):
    kill_in(
      "with files.replacing(sys.argv[1]) as file:\n"
      "  file.write(b'half')\n  file.flush()\n  os.kill(os.getpid(), signal.SIGKILL)",
      path,
    )
    assert any(map(files.is_temporary, names(path.parent)))
  take(tmp_path).close()
  assert names(tmp_path) == ["box.json", "inner", "lock"]
  assert names(tmp_path / "inner") == []


def test_writer_that_was_killed_before_the_record_leaves_an_empty_folder(tmp_path):
  kill_in(
    "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    "files.create_text(sys.argv[1], 'text')",
    tmp_path / "box.json",
  )
  take(tmp_path).close()
  assert names(tmp_path) == ["box.json", "lock"]


def test_temporary_file_of_a_living_writer_stays(tmp_path):
  take(tmp_path).close()
  with files.replacing(tmp_path / "picture.png") as file:
    file.write(b"picture")
    take(tmp_path).close()
  assert (tmp_path / "picture.png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", [".tf_hessian-abc", ".tf_hessian-0123456789abcdef.bak"])
def test_file_of_a_similar_name_stays(tmp_path, name):
  take(tmp_path).close()
  (tmp_path / name).write_text("mine")
  take(tmp_path).close()
  assert (tmp_path / name).read_text() == "mine"


# Scratch.


@pytest.fixture
def temporary(tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  return tmp_path


def test_scratch_folder_is_gone_afterwards(temporary):
  with folders.scratch() as path:
    (path / "file").write_text("")
    assert path.parent == temporary
  assert names(temporary) == []


def test_scratch_folder_of_a_killed_process_is_removed_and_no_other(temporary):
  kill_in(
    "import tempfile; tempfile.tempdir = sys.argv[1]\n"
    "with folders.scratch() as path:\n"
    "  (path / 'file').write_text('')\n  os.kill(os.getpid(), signal.SIGKILL)",
    temporary,
  )
  assert len(names(temporary)) == 2  # its lock is beside it
  (temporary / "tf_hessian-scratch-mine").mkdir()
  with folders.scratch() as first:
    (first / "file").write_text("")
    with folders.scratch() as second:
      assert {first.name, second.name} < set(names(temporary))
      assert (first / "file").exists()
  assert names(temporary) == ["tf_hessian-scratch-mine"]


# Digests.


def test_digest_tells_values_apart_but_not_their_order_nor_what_is_none():
  first = folders.digest({"a": 1, "b": [2, None], "c": None})
  assert first == folders.digest({"b": [2, None], "a": 1})
  assert first != folders.digest({"a": 2, "b": [2, None]})
