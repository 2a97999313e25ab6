"""The command line: arguments to Settings to a finished run."""
