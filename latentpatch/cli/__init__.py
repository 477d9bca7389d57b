"""The command line, one file a command; :mod:`.main` is its entry point."""
