"""Whether runs and trainings survive faults of files, of processes and of users."""
