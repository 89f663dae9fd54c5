"""The events pipeline: canonical events into Postgres."""
