"""Who computes which batches, and how their sums come together; knows nothing of Hessians."""
