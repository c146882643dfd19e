"""Prune a PyTorch network to a latency budget, measured on the machine that will run it."""

__version__ = "0.1.0"
