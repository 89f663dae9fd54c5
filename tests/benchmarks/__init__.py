"""What the platform does per second, beside a naive baseline on the same machine: ``python -m tests.benchmarks --help``."""
