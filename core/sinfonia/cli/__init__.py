"""The `sinfonia` command: it parses arguments, calls the packages below and prints the results."""
