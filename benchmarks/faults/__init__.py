"""Faults of files, processes and users that runs must survive."""
