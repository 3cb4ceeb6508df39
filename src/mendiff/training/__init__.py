"""Shared parts of all trainings: random numbers, learning rate, optimisers, LoRA, training loop."""
