"""What products and densities cost, in time and memory."""
