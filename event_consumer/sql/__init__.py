"""The consumer's statements that belong to no pipeline."""
