"""The former name of :mod:`latentpatch.datasets`."""

from .datasets import Recombine, RecombinedSamples, fit_labelled

__all__ = ["Recombine", "RecombinedSamples", "fit_labelled"]
