"""Training of the embedded autoencoders."""
