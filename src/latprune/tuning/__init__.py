"""TEACH the small network."""
