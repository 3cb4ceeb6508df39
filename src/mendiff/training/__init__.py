"""What all trainings share: random numbers, learning rate, optimisers, LoRA, the loop."""
