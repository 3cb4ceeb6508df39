"""Metrics, baselines, ablations and published results."""
