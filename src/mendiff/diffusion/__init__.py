"""The mathematics of diffusion: schedules, ladders, sampling, randomness."""
