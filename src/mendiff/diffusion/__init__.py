"""Diffusion: noise schedules, timestep ladders, sampling, per-image randomness."""
