"""Trainings of the embedded autoencoders, and of methods on one picture or a few."""
