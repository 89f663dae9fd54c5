"""What the tests share: real Kafka and Postgres, and the services as processes."""
