"""Who computes which batches, and how their sums come together; knows nothing of Hessians."""

STRATEGIES = ("one_device", "mirrored", "multi_worker", "parameter_server")
