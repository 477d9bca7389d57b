"""Methods on one picture or a few, which need no registration."""
