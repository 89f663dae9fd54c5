"""What the services must agree on (event, codec, topics, errors, schema) and the plumbing they share. Imports no service."""
