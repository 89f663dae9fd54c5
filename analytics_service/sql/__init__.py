"""The SQL of the analytics service, one statement a file."""
