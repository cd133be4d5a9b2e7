"""Batches distributed over replicas and workers, and their sums put together.

Nothing here knows of Hessians.
"""

from __future__ import annotations

STRATEGIES = ("one_device", "mirrored", "multi_worker", "parameter_server")
