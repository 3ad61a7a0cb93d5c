"""Training: the loop, devices and memory, checkpoints, metrics, and the folder of a run."""
