"""Postgres in, JSON out: what the events say."""

__version__ = "0.1.0"
