"""Faults, workloads and checkers for running clusters: to come; the README says what."""
