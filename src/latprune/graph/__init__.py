"""WHAT can go: which channels must be cut together."""
