"""A basis that is spread over workers is the same basis, and a worker's trouble is everybody's."""

import contextlib
import threading

import numpy as np
import pytest

from tf_hessian.numerics import distributed_basis
from tf_hessian.numerics.lanczos import Lanczos, ritz_pairs
from tf_hessian.numerics.memory_basis import MemoryBasis
from tf_hessian.numerics.probes import probe

EPS = np.finfo(np.float64).eps
SECONDS = 600  # of what hangs
STEPS = 7
# One column each; shards that differ; several pieces of arithmetic in each.
SIZES = [4, 103, 70_001]


class Failure(Exception):
  """What all workers raise."""


class Board:
  """Where the threads of a group leave their arrays for each other."""

  def __init__(self, size):
    self.size = size
    self.barrier = threading.Barrier(size)
    self.arrays = [None] * size
    self.counts = {"announcements": 0, "sums": 0, "numbers": 0}


class Group:
  """One thread's end of a group of threads."""

  def __init__(self, board, rank):
    self.rank, self.size = rank, board.size
    self._board = board

  def _exchanged(self, value):
    board = self._board
    board.arrays[self.rank] = value
    board.barrier.wait(SECONDS)
    arrays = list(board.arrays)
    board.barrier.wait(SECONDS)
    return arrays

  def announce(self, text):
    self._board.counts["announcements"] += 1
    self._exchanged(text)

  def committed(self):
    return contextlib.nullcontext()

  def announced(self):
    """On the others: returns what the chief has announced."""
    return self._exchanged(None)[0]

  def broadcast(self, array):
    found = self._exchanged(np.array(array))
    assert {a.shape for a in found} == {found[0].shape}
    if not self.rank:
      self._board.counts["numbers"] += found[0].size
    return found[0]

  def broadcast_bytes(self, content, rank):
    return self._exchanged(content)[rank]

  def add(self, array):
    found = self._exchanged(np.array(array))
    assert {a.shape for a in found} == {found[0].shape}
    if not self.rank:
      self._board.counts["sums"] += 1
      self._board.counts["numbers"] += found[0].size
    return np.sum(found, axis=0)

  def failure(self, message):
    return Failure(message)


class Team:
  """The chief's `Shards`, while threads join for the others; a context manager."""

  def __init__(self, size):
    self._board = Board(size)
    groups = [Group(self._board, rank) for rank in range(size)]
    self.counts = self._board.counts
    self.members = [distributed_basis.Shards(group) for group in groups]
    self.errors = [None] * size
    self._threads = [threading.Thread(target=self._follow, args=(r,)) for r in range(1, size)]

  @property
  def chief(self):
    return self.members[0]

  def new(self, steps, n, path=None):
    return distributed_basis.DistributedBasis(self.chief, steps, n, path)

  def _follow(self, rank):
    shards = self.members[rank]
    try:
      while text := shards.group.announced():
        name, *numbers = text.split()
        assert name == "basis"
        shards.join(*map(int, numbers))
    except Failure as e:
      self.errors[rank] = str(e)
    except BaseException:
      self._board.barrier.abort()  # so that nobody waits
      raise

  def __enter__(self):
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *unused):
    if not any(self.errors):
      self.chief.group.announce("")
    for thread in self._threads:
      thread.join(SECONDS)
      assert not thread.is_alive()


@pytest.fixture(params=[2, 3, 4])
def team(request):
  with Team(request.param) as team:
    yield team


@pytest.fixture
def pair():
  with Team(2) as team:
    yield team


def random_rows(steps, n):
  """Returns orthonormal rows (steps, n), as far as there are that many."""
  q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, steps)))
  return q.T.copy()


def fill(basis, rows):
  for j, row in enumerate(rows):
    basis.store(j, row)
  return basis


def both(team, n):
  """Returns (spread basis, basis in memory) with the same rows."""
  rows = random_rows(min(STEPS, n), n)
  steps = len(rows)
  return fill(team.new(steps, n), rows), fill(MemoryBasis(np.empty((steps, n))), rows)


# The same basis.


@pytest.mark.parametrize("n", SIZES)
def test_rows_are_those_that_were_stored(team, n):
  found, expected = both(team, n)
  for j in range(found.steps):
    np.testing.assert_array_equal(found.row(j), expected.row(j))


def test_row_is_read_only(pair):
  with pytest.raises(ValueError, match="read-only"):
    both(pair, 103)[0].row(1)[0] = 1


@pytest.mark.parametrize("n", SIZES)
def test_combinations_are_those_of_the_rows(team, n):
  found, expected = both(team, n)
  coefficients = np.random.default_rng(1).standard_normal((2, 3))
  np.testing.assert_allclose(
    found.combine(coefficients), expected.combine(coefficients), rtol=0, atol=20 * EPS
  )


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("recent", [None, 2])
def test_orthogonalization_is_that_in_memory_up_to_rounding(team, n, recent):
  found, expected = both(team, n)
  w = np.random.default_rng(2).standard_normal(n)
  length, count = np.linalg.norm(w), found.steps - 1
  left = w.copy()
  overlaps, norm = expected.orthogonalize(left, count, 0.0, recent=recent)
  spread_overlaps, spread_norm = found.orthogonalize(w, count, 0.0, recent=recent)
  # Each sum of n products is off by at most n eps of the lengths; there are at most six of them.
  tolerance = 6 * n * EPS * length
  np.testing.assert_allclose(spread_overlaps, overlaps, rtol=0, atol=tolerance)
  assert abs(spread_norm - norm) <= tolerance
  found.extend(count, w, spread_norm)
  np.testing.assert_allclose(found.row(count), left / norm, rtol=0, atol=tolerance / norm)


def test_vector_in_the_span_is_passed_over_by_all_alike(team):
  # The number of passes depends on sums, and all workers must find the same.
  rows = random_rows(STEPS, 103)
  found = fill(team.new(STEPS, 103), rows)
  overlaps, length = found.orthogonalize(np.ones(STEPS) @ rows, STEPS, 1e-13, recent=2)
  assert length <= 1e-13
  np.testing.assert_allclose(overlaps, 1, rtol=0, atol=100 * EPS)


def tridiagonal(basis, draw=0):
  basis.store(0, probe(0, draw, basis.n))
  state = Lanczos(basis)
  state.run(lambda v: np.linspace(1, 2, basis.n) * v)
  return state


@pytest.mark.parametrize("n", [103, 70_001])
def test_recurrence_is_that_in_memory_up_to_rounding(team, n):
  found = tridiagonal(team.new(STEPS, n))
  expected = tridiagonal(MemoryBasis(np.empty((STEPS, n))))
  # Of this matrix, with no isolated eigenvalues, rounding errors grow little in so few steps.
  for name in ("alphas", "betas"):
    np.testing.assert_allclose(
      getattr(found, name), getattr(expected, name), rtol=0, atol=100 * np.sqrt(n) * EPS
    )
  assert found.status is expected.status
  assert np.abs(ritz_pairs(found, [-1]).vectors @ ritz_pairs(expected, [-1]).vectors.T) > 1 - 1e-9


def test_recurrence_is_bitwise_the_same_again(team):
  first, second = (tridiagonal(team.new(STEPS, 70_001)) for _ in range(2))
  np.testing.assert_array_equal(first.alphas, second.alphas)
  np.testing.assert_array_equal(first.betas, second.betas)


def test_draws_in_turns_are_the_draws_alone(pair):
  alone = [tridiagonal(pair.new(STEPS, 103), draw) for draw in range(2)]
  states = []
  for draw in range(2):
    basis = pair.new(STEPS, 103)
    basis.store(0, probe(0, draw, 103))
    states.append(Lanczos(basis))
  for _ in range(STEPS):
    for state in states:
      state.step(lambda v: np.linspace(1, 2, 103) * v)
  for state, expected in zip(states, alone, strict=True):
    np.testing.assert_array_equal(state.alphas, expected.alphas)


def test_invariant_space_ends_the_recurrence(team):
  basis = team.new(STEPS, 103)
  basis.store(0, np.eye(103)[5])
  state = Lanczos(basis)
  state.run(lambda v: 3 * v)
  assert state.status.name == "INVARIANT" and state.alphas.tolist() == [3.0]


# What each worker holds, and what moves.


@pytest.mark.parametrize("n", SIZES)
def test_no_worker_holds_more_than_its_share(team, monkeypatch, n):
  held, make = [], MemoryBasis.__init__
  monkeypatch.setattr(
    MemoryBasis, "__init__", lambda shard, array: held.append(array.nbytes) or make(shard, array)
  )
  team.new(STEPS, n)
  assert len(held) == len(team.members)
  assert sum(held) == 8 * STEPS * n
  assert max(held) <= 8 * STEPS * -(-n // len(held))


def keep(team, basis, w):
  for member in team.members:
    member.keep(basis.number, w)


@pytest.mark.parametrize("n", [103, 70_001])
def test_step_with_a_product_that_all_have_moves_a_few_sums(pair, n):
  found, _ = both(pair, n)
  w = np.random.default_rng(2).standard_normal(n)
  keep(pair, found, w)
  before = dict(pair.counts)
  found.orthogonalize(w, 5, 0.0, recent=2)
  spent = {k: pair.counts[k] - v for k, v in before.items()}
  # Overlaps and lengths of two passes, from two workers, and whether they could compute them.
  assert spent == {"announcements": 1, "sums": 4, "numbers": 2 * (2 * (STEPS + 1) + 2 * 2)}


def test_product_that_all_have_gives_bitwise_what_one_that_is_sent_gives(team):
  found, _ = both(team, 70_001)
  w = np.random.default_rng(2).standard_normal(70_001)
  sent = found.orthogonalize(w, 5, 0.0)
  keep(team, found, w)
  kept = found.orthogonalize(w, 5, 0.0)
  np.testing.assert_array_equal(kept[0], sent[0])
  assert kept[1] == sent[1]


def test_other_vector_than_the_product_is_sent(pair):
  found, expected = both(pair, 103)
  keep(pair, found, np.ones(103))
  w = np.random.default_rng(2).standard_normal(103)
  overlaps, _ = found.orthogonalize(w, 5, 0.0)
  np.testing.assert_allclose(overlaps, expected.orthogonalize(w, 5, 0.0)[0], rtol=0, atol=1e-13)


def test_parts_of_a_row_make_the_row(team):
  found, expected = both(team, 103)
  whole = np.zeros(103)
  for member in team.members:
    member.place(found.number, 2, whole)
  np.testing.assert_array_equal(whole, expected.row(2))


def test_discarded_basis_is_gone_from_all_workers(team):
  first, second = (team.new(STEPS, 103) for _ in range(2))
  second.store(0, np.arange(103.0))
  first.discard()
  assert [len(member._shards) for member in team.members] == [1] * len(team.members)
  np.testing.assert_array_equal(second.row(0), np.arange(103.0))


def test_more_workers_than_columns_are_refused(pair):
  with pytest.raises(ValueError, match="1 columns can't be spread over 2 workers"):
    pair.new(1, 1)


# On disk.


def test_parts_are_in_files_of_each_worker_and_go_on(team, tmp_path):
  path = tmp_path / "run" / "basis_000"
  rows, size = random_rows(STEPS, 103), len(team.members)
  basis = fill(team.new(STEPS, 103, path), rows)
  basis.flush()
  checksums = [basis.checksum(j) for j in range(STEPS)]
  names = sorted(p.name for p in path.parent.iterdir())
  assert names == [f"basis_000_{rank}_of_{size}" for rank in range(size)]
  assert sum(p.stat().st_size for p in path.parent.iterdir()) == 8 * STEPS * 103
  again = team.new(STEPS, 103, path)
  assert [again.checksum(j) for j in range(STEPS)] == checksums
  np.testing.assert_array_equal(again.row(3), rows[3])


def test_checksum_tells_a_part_that_is_missing_or_changed(team, tmp_path):
  path, size = tmp_path / "basis_000", len(team.members)
  checksum = fill(team.new(STEPS, 103, path), random_rows(STEPS, 103)).checksum(2)
  last = tmp_path / f"basis_000_{size - 1}_of_{size}"
  last.unlink()
  again = team.new(STEPS, 103, path)
  assert again.checksum(2) != checksum
  assert again.checksum(2) == again.checksum(2)


def test_discarded_basis_has_no_files(team, tmp_path):
  team.new(STEPS, 103, tmp_path / "basis_000").discard()
  assert not list(tmp_path.iterdir())


# A worker's trouble.


def test_worker_without_room_is_named_by_all(monkeypatch, tmp_path):
  with Team(3) as team:
    original = distributed_basis.mapped

    def refused(path, *arguments):
      if "1_of_3" in path.name:
        raise MemoryError("no room")
      return original(path, *arguments)

    monkeypatch.setattr(distributed_basis, "mapped", refused)
    with pytest.raises(Failure) as error:
      team.new(STEPS, 103, tmp_path / "basis_000")
    team.errors[0] = str(error.value)
  message = "worker 1 can't go on with its part of a Lanczos basis: MemoryError: no room"
  assert team.errors == [message] * 3


def test_failure_in_the_middle_of_a_step_reaches_all(monkeypatch):
  with Team(2) as team:
    basis = fill(team.new(STEPS, 103), random_rows(STEPS, 103))
    part, original = team.members[1]._shards[0], MemoryBasis.subtract

    def broken(shard, *arguments):
      if shard is part:
        raise MemoryError("no room")
      return original(shard, *arguments)

    monkeypatch.setattr(MemoryBasis, "subtract", broken)
    with pytest.raises(Failure) as error:
      basis.orthogonalize(np.ones(103), STEPS, 0.0)
    team.errors[0] = str(error.value)
  assert team.errors[0] == team.errors[1]
  assert "worker 1 can't go on" in team.errors[0]
