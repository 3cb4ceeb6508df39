"""From a pair of images or features to an anomaly map and a score."""
