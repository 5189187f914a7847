"""Training: losses, batches, the one loop."""
