"""Files that are whole or not there."""

from concurrent import futures
import errno
import os

import pytest

from tf_hessian import files


def full(*_, **__):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_file_has_what_was_written(tmp_path):
  with files.replacing(tmp_path / "file") as file:
    file.write(b"new")
  assert (tmp_path / "file").read_bytes() == b"new"


def test_file_is_replaced(tmp_path):
  (tmp_path / "file").write_bytes(b"old and longer")
  with files.replacing(tmp_path / "file") as file:
    file.write(b"new")
  assert (tmp_path / "file").read_bytes() == b"new"


def test_file_is_the_old_one_while_the_new_is_written(tmp_path):
  (tmp_path / "file").write_bytes(b"old")
  with files.replacing(tmp_path / "file") as file:
    file.write(b"new")
    file.flush()
    assert (tmp_path / "file").read_bytes() == b"old"


def test_path_may_be_a_string(tmp_path):
  with files.replacing(str(tmp_path / "file")) as file:
    file.write(b"new")
  assert (tmp_path / "file").exists()


def test_folders_are_made(tmp_path):
  files.write_text(tmp_path / "a" / "b" / "file", "text")
  assert (tmp_path / "a" / "b" / "file").read_text() == "text"


def test_text_is_utf8(tmp_path):
  files.write_text(tmp_path / "file", "σ² ± 1")
  assert (tmp_path / "file").read_bytes() == "σ² ± 1".encode()


def test_nothing_else_is_left(tmp_path):
  files.write_text(tmp_path / "file", "text")
  assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("sync", [True, False])
def test_contents_are_forced_to_the_disk_if_asked(tmp_path, monkeypatch, sync):
  synced = []
  monkeypatch.setattr(os, "fsync", synced.append)
  with files.replacing(tmp_path / "file", sync=sync) as file:
    file.write(b"new")
  assert len(synced) == 2 * sync  # the file and its folder


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_permission_follows_the_umask(tmp_path, umask):
  before = os.umask(umask)
  try:
    files.write_text(tmp_path / "file", "text")
    assert os.umask(umask) == umask
  finally:
    os.umask(before)
  assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_umask_is_never_changed(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "umask", None)  # threads share it
  files.write_text(tmp_path / "file", "text")
  files.create_text(tmp_path / "new", "text")


def test_many_threads_write_whole_files_with_the_right_permissions(tmp_path):
  before = os.umask(0o027)
  try:
    with futures.ThreadPoolExecutor(8) as pool:
      texts = [str(i) * 1000 for i in range(40)]
      list(pool.map(lambda t: files.write_text(tmp_path / t[:2], t), texts))
    assert os.umask(0o027) == 0o027
  finally:
    os.umask(before)
  for path in tmp_path.iterdir():
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text() in texts


# Links.


@pytest.mark.parametrize("exists", [True, False])
def test_link_itself_is_replaced_and_not_what_it_points_to(tmp_path, exists):
  target, path = tmp_path / "target", tmp_path / "link"
  if exists:
    target.write_text("mine")
  path.symlink_to(target)
  files.write_text(path, "new")
  assert path.read_text() == "new" and not path.is_symlink()
  assert target.exists() == exists
  assert not exists or target.read_text() == "mine"


def test_temporary_names_differ_and_are_never_those_that_are_there(tmp_path, monkeypatch):
  seen = iter(["0" * 16, "0" * 16, "1" * 16])
  monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(seen))
  mine = tmp_path / f".tf_hessian-{'0' * 16}"
  mine.symlink_to(tmp_path / "target")
  files.write_text(tmp_path / "file", "new")
  assert not (tmp_path / "target").exists() and mine.is_symlink()


@pytest.mark.parametrize("make", [lambda p: p.write_text("mine"), lambda p: p.symlink_to("none")])
def test_new_file_is_never_written_over_another(tmp_path, make):
  make(tmp_path / "file")
  with pytest.raises(FileExistsError):
    files.create_text(tmp_path / "file", "new")
  assert os.listdir(tmp_path) == ["file"]
  assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("links", [True, False])
def test_new_file_has_what_was_written(tmp_path, monkeypatch, links):
  if not links:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
  files.create_text(tmp_path / "file", "new")
  assert (tmp_path / "file").read_text() == "new"
  assert os.listdir(tmp_path) == ["file"]


def test_own_file_is_not_read_through_a_link(tmp_path):
  (tmp_path / "target").write_text("text")
  (tmp_path / "link").symlink_to(tmp_path / "target")
  assert files.read_own(tmp_path / "target") == "text"
  with pytest.raises(OSError):
    files.read_own(tmp_path / "link")


def test_own_file_that_is_a_pipe_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(ValueError, match="pipe: not a file"):
    files.read_own(tmp_path / "pipe")


# Errors.


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, ValueError, MemoryError])
def test_exception_leaves_the_old_file_and_no_other(tmp_path, error):
  (tmp_path / "file").write_bytes(b"old")
  with pytest.raises(error, match="why"), files.replacing(tmp_path / "file") as file:
    file.write(b"half")
    raise error("why")
  assert os.listdir(tmp_path) == ["file"]
  assert (tmp_path / "file").read_bytes() == b"old"


def test_exception_leaves_no_file_where_there_was_none(tmp_path):
  with pytest.raises(RuntimeError), files.replacing(tmp_path / "file") as file:
    file.write(b"half")
    raise RuntimeError
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_call_leaves_the_old_file_and_names_the_path(tmp_path, monkeypatch, call):
  (tmp_path / "file").write_bytes(b"old")
  monkeypatch.setattr(os, call, full)
  with pytest.raises(OSError) as error:
    files.write_text(tmp_path / "file", "new")
  assert str(tmp_path / "file") in str(error.value)
  assert error.value.errno == errno.ENOSPC
  assert os.listdir(tmp_path) == ["file"]
  assert (tmp_path / "file").read_bytes() == b"old"


def test_full_disk_while_writing_names_the_path(tmp_path):
  expected = pytest.raises(OSError, match=f"{tmp_path}/file.*No space left")
  with expected, files.replacing(tmp_path / "file"):
    full()
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("below", ["file/new", "file/folder/new"])
def test_folder_that_is_a_file_is_named(tmp_path, below):
  (tmp_path / "file").write_bytes(b"old")
  with pytest.raises(OSError) as error:
    files.write_text(tmp_path / below, "new")
  assert str(tmp_path / below) in str(error.value)
  assert (tmp_path / "file").read_bytes() == b"old"


def test_path_that_is_a_folder_is_named(tmp_path):
  (tmp_path / "folder").mkdir()
  with pytest.raises(IsADirectoryError, match=f"{tmp_path}/folder"):
    files.write_text(tmp_path / "folder", "new")
  assert os.listdir(tmp_path) == ["folder"]
