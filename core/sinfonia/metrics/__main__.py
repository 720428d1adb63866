"""``python -m sinfonia.metrics`` prints the table of all metrics as METRICS.md."""

import sys

from sinfonia.metrics.table import document

if __name__ == "__main__":
    sys.stdout.write(document())
