"""Learning, as plain PyTorch; what a cluster changes comes in as arguments."""
