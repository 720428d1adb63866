"""The `sinfonia` command: parsing and wiring, nothing else."""
