"""What an operator changes about a running cluster; each change is safe to repeat.

A change is made of steps, and each looks first whether it is done: after an interruption the
operator says the same again.
"""
