"""Runs of commands: several processes, resuming, the machine's memory."""
