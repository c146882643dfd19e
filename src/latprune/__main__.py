"""`python -m latprune` is `latprune`."""

from latprune.cli import main

main()
