"""What the right answers are: plain Python over the same events, one by one, sharing no code with the service."""
