"""WHAT a channel is worth."""
