"""Methods: what can be done with a bank or with pictures."""
