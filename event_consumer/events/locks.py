"""Numbers of the advisory locks that the platform takes in Postgres; each is an arbitrary constant, the same everywhere."""

from __future__ import annotations

ROLLUP_LOCK = 0x45564E54_0001
"""Shared by each transaction that feeds rollups; exclusive for whoever removes or remakes their rows."""
MAINTENANCE_LOCK = 0x45564E54_0002
"""Exclusive for whoever makes and drops partitions."""
