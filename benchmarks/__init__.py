"""Measurements of time, memory, faults and the shape of the code."""
