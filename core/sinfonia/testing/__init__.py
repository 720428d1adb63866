"""What programs on Sinfonia are tested with: a model, stepwise driving, pytest fixtures.

Beside them are real clusters and hosts for one test, and programs that load them and check them.
"""
