"""Methods with networks that are trained on one picture or a few."""
