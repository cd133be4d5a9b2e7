"""Which kind of basis is chosen, and how much memory a process is taken to have."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tf_hessian import portable
from tf_hessian.numerics.disk_basis import DiskBasis
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.probes import probe
from tf_hessian.slq import storage
from tf_hessian.slq.storage import Storage, Workers, available_memory, free_disk, plan_basis

GB = 10**9
N, STEPS = 27_200_000, 90  # 19.6 GB in float64, and 9.8 GB in float32
FLOAT32 = 2.0**-24


@pytest.mark.parametrize(
  "memory, disk, precision, expected",
  [
    (24 * GB, 0, 0.0, "memory"),
    (24 * GB, 40 * GB, FLOAT32, "memory"),
    (12 * GB, 40 * GB, 0.0, "disk"),
    (12 * GB, 40 * GB, FLOAT32, "float32"),
    (12 * GB, 12 * GB, 0.0, "float32"),
    (6 * GB, 40 * GB, 0.0, "disk"),
    (6 * GB, 40 * GB, FLOAT32, "float32_disk"),
    (6 * GB, 12 * GB, 0.0, "float32_disk"),
  ],
)
def test_kind_that_is_chosen(memory, disk, precision, expected):
  plan = plan_basis(N, STEPS, memory=memory, disk=disk, precision=precision)
  assert plan.kind == expected
  assert plan.memory_bytes <= memory and plan.disk_bytes <= disk


@pytest.mark.parametrize("kind", ["memory", "disk", "float32", "float32_disk"])
def test_kind_that_is_asked_for_is_taken(kind):
  assert plan_basis(N, STEPS, kinds=(kind,), memory=24 * GB, disk=40 * GB).kind == kind


@pytest.mark.parametrize(
  "kind, memory, disk",
  [("memory", 12, 40), ("disk", 12, 12), ("float32", 8, 40), ("float32_disk", 8, 8)],
)
def test_kind_that_is_asked_for_and_has_no_room_is_refused(kind, memory, disk):
  with pytest.raises(ValueError, match=f"no room .*: {kind} needs .*: take fewer steps"):
    plan_basis(N, STEPS, kinds=(kind,), memory=memory * GB, disk=disk * GB)


def test_refusal_says_what_each_kind_needs_and_what_there_is():
  with pytest.raises(ValueError) as error:
    plan_basis(N, STEPS, 10, memory=8 * GB, disk=70 * GB)
  message = str(error.value)
  for part in ("90 steps of 10 draws", "disk needs", "196 GB of disk", "70 GB of disk:"):
    assert part in message


def test_draws_in_lock_step_have_a_basis_each():
  one, ten = (plan_basis(10**6, STEPS, draws, memory=24 * GB) for draws in (1, 10))
  assert ten.memory_bytes - 8 * 10**6 * 2 == 10 * (one.memory_bytes - 8 * 10**6 * 2)


def test_one_draw_of_a_plan_too_large_for_ten_has_room():
  with pytest.raises(ValueError):
    plan_basis(N, STEPS, 10, kinds=("memory",), memory=24 * GB)
  assert plan_basis(N, STEPS, 1, memory=24 * GB).kind == "memory"


def test_none_is_kept_only_where_no_kind_has_room():
  for precision in (0.0, FLOAT32):
    assert plan_basis(N, STEPS, memory=2 * GB, disk=40 * GB, precision=precision).on_disk
    plan = plan_basis(N, STEPS, memory=2 * GB, disk=GB, precision=precision)
    assert (plan.kind, plan.rows_bytes, plan.disk_bytes) == ("none", 3 * 8 * N, 0)
    assert "memory would need 20.5 GB" in plan.reason


def test_last_rows_have_the_memory_that_was_planned():
  plan = plan_basis(1000, STEPS, 4, kinds=("none",), memory=GB)
  bases = plan.open_in_memory(4)
  assert sum(b.nbytes for b in bases) == plan.rows_bytes == 4 * 3 * 8000
  assert [b.steps for b in bases] == [STEPS] * 4
  assert plan.memory_bytes - plan.rows_bytes == 8000 * (2 * 4 + 2)


def test_rest_of_the_memory_holds_blocks_of_the_file():
  plan = plan_basis(N, STEPS, memory=6 * GB, disk=40 * GB)
  assert plan.memory_bytes == 6 * GB
  assert 4.5 * GB < plan.resident_bytes < 5.5 * GB


def test_no_more_is_resident_than_the_file_has():
  plan = plan_basis(5000, STEPS, kinds=("disk",), memory=GB, disk=GB)
  assert plan.resident_bytes == plan.disk_bytes


@pytest.mark.parametrize("kind, rows", [("memory", 8), ("float32", 4)])
def test_memory_that_outlasts_the_process_needs_disk_too(kind, rows):
  size = rows * N * STEPS
  options = {"kinds": (kind,), "memory": 24 * GB, "in_files": True}
  plan = plan_basis(N, STEPS, disk=size, **options)
  assert (plan.kind, plan.disk_bytes, plan.resident_bytes) == (kind, size, 0)
  with pytest.raises(ValueError, match="no room .*GB of disk: take fewer steps"):
    plan_basis(N, STEPS, disk=size - 1, **options)


@pytest.mark.parametrize("precision", [0.0, FLOAT32])
@pytest.mark.parametrize("memory, expected", [(24, "memory"), (12, "workers")])
def test_workers_are_chosen_where_one_has_no_room(memory, expected, precision):
  plan = plan_basis(
    N, STEPS, memory=memory * GB, disk=40 * GB, precision=precision, workers=Workers(4, 12 * GB)
  )
  assert plan.kind == expected
  assert plan.workers == (4 if expected == "workers" else 1)


def test_worker_with_least_memory_decides():
  options = {"memory": 12 * GB, "disk": 40 * GB}
  assert plan_basis(N, STEPS, workers=Workers(4, 6 * GB), **options).kind == "disk"
  with pytest.raises(ValueError, match="no room .*: workers needs .*, 6 GB of it on each worker"):
    plan_basis(N, STEPS, kinds=("workers",), workers=Workers(4, 6 * GB), **options)


@pytest.mark.parametrize("size", [2, 3, 50])
def test_workers_take_their_share_of_the_rows(size):
  one, spread = (
    plan_basis(
      N,
      STEPS,
      kinds=(kind,),
      memory=24 * GB,
      disk=40 * GB,
      in_files=True,
      workers=Workers(size, 24 * GB),
    )
    for kind in ("memory", "workers")
  )
  assert spread.rows_bytes == 8 * STEPS * -(-N // size)
  assert spread.disk_bytes == spread.rows_bytes
  # A few vectors more are on their way between workers.
  assert spread.memory_bytes - spread.rows_bytes == one.memory_bytes - one.rows_bytes + 8 * N * 4


def test_part_of_a_worker_is_a_basis_of_its_columns():
  part = plan_basis(103, 5, kinds=("workers",), memory=GB, workers=Workers(2, GB)).part()
  basis = part.open()
  assert (basis.steps, basis.n, basis.nbytes) == (5, 52, part.rows_bytes)


def test_workers_need_others_than_this_process():
  with pytest.raises(ValueError, match="'workers' distributes .* MultiWorkerMirroredStrategy"):
    plan_basis(N, STEPS, kinds=("workers",), memory=24 * GB)


def test_more_workers_than_parameters_are_refused_if_asked_for_and_else_not_chosen():
  with pytest.raises(ValueError, match="2 parameters can't be distributed over 3 workers"):
    plan_basis(2, 100, kinds=("workers",), memory=GB, workers=Workers(3, GB))
  with pytest.raises(ValueError, match="memory needs") as error:
    plan_basis(2, 100, memory=80, workers=Workers(3, GB))  # without a basis it takes 112 bytes
  assert "workers needs" not in str(error.value)


def test_disk_too_small_for_float64_leaves_float32():
  plan = plan_basis(N, STEPS, memory=24 * GB, disk=12 * GB, in_files=True)
  assert (plan.kind, plan.on_disk) == ("float32", False)


def test_reason_names_what_was_passed_over_and_why():
  reason = plan_basis(N, STEPS, memory=12 * GB, disk=40 * GB).reason
  assert reason.startswith("disk needs") and "memory would need 20.5 GB" in reason


@pytest.mark.parametrize("kind", ["memory", "disk", "float32", "float32_disk"])
def test_basis_of_a_plan_is_of_its_kind_and_runs(tmp_path, kind):
  n = 5000
  plan = plan_basis(n, 5, kinds=(kind,), memory=GB, disk=GB)
  basis = plan.open(tmp_path / "basis" if "disk" in kind else None)
  basis.store(0, probe(0, 0, n))
  Lanczos(basis).run(lambda v: np.linspace(0, 1, n) * v)
  assert (basis.steps, basis.n) == (5, n)
  assert basis.dtype == (np.float32 if "float32" in kind else np.float64)
  assert isinstance(basis, DiskBasis) == ("disk" in kind)
  basis.close()


@pytest.mark.parametrize("kind", ["memory", "float32", "disk", "float32_disk"])
def test_basis_in_a_file_is_opened_again_with_its_rows(tmp_path, kind):
  n, path = 5000, tmp_path / "basis"
  plan = plan_basis(n, 5, kinds=(kind,), memory=GB, disk=GB)
  rows = []
  for _ in range(2):
    basis = plan.open(path)
    if not rows:
      basis.store(3, probe(0, 0, n))
      basis.flush()
    rows.append(np.array(basis.row(3)))
    basis.close()
  assert path.stat().st_size >= 5 * n * basis.dtype.itemsize
  np.testing.assert_array_equal(rows[1], rows[0])
  np.testing.assert_array_equal(rows[0], probe(0, 0, n).astype(basis.dtype))


@pytest.mark.parametrize(
  "name, arguments", [("n", (0, 9)), ("steps", (9, 0)), ("draws", (9, 9, 0))]
)
def test_counts_below_one_are_refused(name, arguments):
  with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1"):
    plan_basis(*arguments, memory=GB)


@pytest.mark.parametrize(
  "choices, message",
  [
    ({"place": "disc"}, "storage.place: expected one of .*did you mean 'disk'"),
    ({"place": "float32"}, r'storage.place: .* is a type: Storage\(dtype="float32"\)'),
    ({"dtype": "float46"}, "storage.dtype: expected one of .*did you mean 'float64'"),
    ({"place": "workers", "dtype": "float32"}, "storage.dtype: .* 'workers' are in float64"),
    ({"place": "none", "dtype": "float32"}, "storage.dtype: .* 'none' are in float64"),
    ({"memory": -1}, "storage.memory: expected a finite number above 0"),
    ({"memory": float("nan")}, "storage.memory: expected a finite number above 0"),
    ({"vectors_per_pass": 0}, "storage.vectors_per_pass: expected an integer of at least 1"),
  ],
)
def test_bad_choices_are_refused_by_name(choices, message):
  with pytest.raises(ValueError, match=message):
    Storage(**choices)


@pytest.mark.parametrize(
  "place, dtype, kinds",
  [
    ("auto", "auto", ["memory", "workers", "disk", "float32", "float32_disk", "none"]),
    ("auto", "float64", ["memory", "workers", "disk", "none"]),
    ("auto", "float32", ["float32", "float32_disk"]),
    ("memory", "auto", ["memory"]),
    ("memory", "float32", ["float32"]),
    ("disk", "auto", ["disk"]),
    ("disk", "float64", ["disk"]),
    ("disk", "float32", ["float32_disk"]),
    ("workers", "auto", ["workers"]),
    ("workers", "float64", ["workers"]),
    ("none", "auto", ["none"]),
    ("none", "float64", ["none"]),
  ],
)
def test_kinds_are_those_of_the_place_and_the_type(place, dtype, kinds):
  assert list(Storage(place, dtype).kinds) == kinds


# Memory.


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """Returns a function that writes a machine's tables and returns what is left on it."""

  def make(cgroup="", groups=None):
    (tmp_path / "proc/self").mkdir(parents=True)
    found = SimpleNamespace(available=8000 * 1024, vms=1000 * 1024)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: found))
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, content in (groups or {}).items():
      path = tmp_path / "cgroup" / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(f"{content}\n")
    return available_memory(proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")

  return make


def version_2(folder, limit, current, inactive=0):
  return {
    f"{folder}memory.max": limit,
    f"{folder}memory.current": current,
    f"{folder}memory.stat": f"anon 5\ninactive_file {inactive}",
  }


def version_1(folder, limit, usage, inactive=0):
  return {
    f"memory/{folder}memory.limit_in_bytes": limit,
    f"memory/{folder}memory.usage_in_bytes": usage,
    f"memory/{folder}memory.stat": f"inactive_file 7\ntotal_inactive_file {inactive}",
  }


def test_machine_without_limits_has_what_the_kernel_says(machine):
  assert machine() == 8000 * 1024


@pytest.mark.parametrize("write, line", [(version_2, "0::/job"), (version_1, "4:memory:/job")])
def test_control_group_leaves_its_limit_less_what_is_used(machine, write, line):
  assert machine(line, write("job/", 5_000_000, 2_000_000, 300_000)) == 3_300_000


@pytest.mark.parametrize("write, line", [(version_2, "0::/a/b"), (version_1, "4:cpu,memory:/a/b")])
def test_group_around_a_control_group_counts_too(machine, write, line):
  groups = write("a/b/", 5_000_000, 1_000_000) | write("a/", 3_000_000, 2_000_000)
  assert machine(line, groups) == 1_000_000


@pytest.mark.parametrize("write, line", [(version_2, "0::/host/x"), (version_1, "4:memory:/host")])
def test_container_that_sees_only_its_own_group(machine, write, line):
  assert machine(line, write("", 5_000_000, 2_000_000)) == 3_000_000


def test_control_group_without_a_limit_is_no_limit(machine):
  assert machine("0::/job", version_2("job/", "max", 2_000_000)) == 8000 * 1024


def test_group_of_another_controller_is_no_limit(machine):
  assert machine("3:cpuset:/job", version_1("job/", 5, 1)) == 8000 * 1024


def test_exhausted_control_group_leaves_nothing(machine):
  assert machine("0::/job", version_2("job/", 5_000_000, 6_000_000)) == 0


def test_limit_of_the_address_space_counts(machine, monkeypatch):
  monkeypatch.setattr(portable, "address_space", lambda: 4000 * 1024)
  assert machine() == 3000 * 1024


def test_this_machine_has_memory():
  assert available_memory() > 0


def test_budget_is_a_fraction_of_what_is_left(monkeypatch):
  monkeypatch.setattr(storage, "available_memory", lambda: GB)
  assert "allowed are 0.7 GB" in plan_basis(9, 9).reason


def test_disk_of_a_folder_to_be_made(tmp_path):
  assert free_disk(tmp_path / "a" / "b") == pytest.approx(free_disk(tmp_path), rel=0.1)


def test_memory_is_what_is_free_where_there_are_no_control_groups(tmp_path, monkeypatch):
  monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * GB))
  monkeypatch.setattr(portable, "address_space", lambda: None)
  assert storage.available_memory(proc=tmp_path) == 7 * GB
