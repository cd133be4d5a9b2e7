"""The memory that this process can still take."""

from __future__ import annotations

import os
import pathlib

import psutil

from tf_hessian import portable


def available_memory(
  *, proc: str | os.PathLike = "/proc", cgroups: str | os.PathLike = "/sys/fs/cgroup"
) -> int:
  """Returns the bytes that this process can still take.

  The machine has only so many, and the process has limits: control groups, of version 1 or 2, and
  the limit of its address space.

  Args:
    proc: folder where the kernel's tables are mounted; by default Linux's.
    cgroups: folder of the control groups; by default Linux's.
  """
  left = [psutil.virtual_memory().available]
  limit = portable.address_space()
  if limit is not None:
    left.append(limit - psutil.Process().memory_info().vms)
  groups = pathlib.Path(proc, "self", "cgroup")
  for line in groups.read_text().splitlines() if groups.exists() else ():  # of Linux alone
    _, controllers, path = line.split(":", 2)
    if not controllers:  # version 2
      left += _left_in_groups(pathlib.Path(cgroups), path, "memory.max", "memory.current", "")
    elif "memory" in controllers.split(","):
      names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
      left += _left_in_groups(pathlib.Path(cgroups, "memory"), path, *names)
  return max(0, min(left))


def _left_in_groups(root, path, limit, usage, prefix):
  """Returns the bytes left in a control group and those around it.

  A list, of those that have a limit. Within a container the path may be that of the host; the
  groups that are seen are taken then.
  """
  groups = [root / path.lstrip("/")]
  groups += [p for p in groups[0].parents if p == root or root in p.parents]
  left = []
  for group in groups:
    try:
      text = (group / limit).read_text().strip()
      if text == "max":
        continue
      used = int((group / usage).read_text())
      rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
      # Pages of files are given back when memory is needed.
      cache = (f"{prefix}inactive_file", f"{prefix}active_file")
      left.append(int(text) - used + sum(int(r[1]) for r in rows if r[0] in cache))
    except FileNotFoundError:
      continue
  return left
