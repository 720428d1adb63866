"""What processes and application programs tell Prometheus: the table, its sources, and HTTP."""

from sinfonia.metrics.table import client_collector as client_collector
