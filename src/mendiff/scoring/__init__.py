"""Anomaly maps and scores from pairs of images or features."""
