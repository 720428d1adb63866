"""The figures that processes give of themselves, each declared once, as a typed row of a table.

Status, `top`, metrics and METRICS.md are made from the rows.  A room declares a table for its own
processes (`tables.py`), so that none of this knows of later rooms.
"""
