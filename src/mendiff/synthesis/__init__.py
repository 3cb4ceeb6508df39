"""Synthetic anomalies made from good images."""
