"""Batches distributed over replicas and workers, and their sums put together.

Nothing here knows of Hessians.
"""

STRATEGIES = ("one_device", "mirrored", "multi_worker", "parameter_server")
