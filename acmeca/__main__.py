"""`python -m acmeca`."""

from acmeca.cli import main

main()
