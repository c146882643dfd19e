"""WHAT a width costs: measured on the target, in the runtime that ships."""
