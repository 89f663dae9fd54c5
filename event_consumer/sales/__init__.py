"""The sales pipeline: Protobuf from Kafka into MongoDB, on the consumer's one loop."""
