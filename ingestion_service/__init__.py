"""HTTP in, Kafka out: a 2xx means that the event is durable."""

__version__ = "0.1.0"
