"""Gradual pruning for those whose loop is a framework's; one file each, imported by name."""
