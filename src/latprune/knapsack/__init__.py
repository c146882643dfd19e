"""CHOOSE the widths: most value within the budget (numpy only)."""
