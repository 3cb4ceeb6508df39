"""The only door to weights on disk."""
