"""The disk spool: what keeps acknowledged events while Kafka is away (docs/decisions/0007-spool.md)."""
