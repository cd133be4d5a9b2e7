"""Parts of a matrix: its diagonal blocks, and the matrices of single batches."""
