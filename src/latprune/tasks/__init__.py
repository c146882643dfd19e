"""What the command line can train and judge."""
