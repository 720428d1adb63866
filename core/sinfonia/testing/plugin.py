"""Fixtures that all rooms share; loaded by pytest through `-p sinfonia.testing.plugin`."""
