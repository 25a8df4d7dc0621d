"""The command line: `acmeca VERB`. A verb parses, calls, prints; one line and exit 1 when something is wrong."""

from acmeca.cli.main import main

__all__ = ["main"]
