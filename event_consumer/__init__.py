"""Kafka in, Postgres out: every event once, or set aside visibly."""

__version__ = "0.1.0"
