"""The SQL of the events pipeline, one statement a file."""
