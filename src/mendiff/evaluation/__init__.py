"""Metrics of a model on a data set."""
