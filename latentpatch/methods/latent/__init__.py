"""Samplers over a bank's latents: from noise to an index map."""
