"""How good generated pictures are, and how much of them is copied: metrics, the protocol, its tables."""

from .bootstrap import bootstrap
from .experiments import COPIER, Row, parse_row, read_tables, standard_rows
from .features import BUILT_IN, Extractor, load_extractor, read_features
from .memorization import Recovery, recovery_errors
from .metrics import (
    coverages,
    densities,
    frechet_distance,
    kernel_distance,
    kolmogorov_smirnov,
    leading_directions,
    precisions,
    random_pairs,
    recalls,
)
from .protocol import Evaluation, Protocol
from .seams import seam_energies

__all__ = [
    "BUILT_IN",
    "COPIER",
    "Evaluation",
    "Extractor",
    "Protocol",
    "Recovery",
    "Row",
    "bootstrap",
    "coverages",
    "densities",
    "frechet_distance",
    "kernel_distance",
    "kolmogorov_smirnov",
    "leading_directions",
    "load_extractor",
    "parse_row",
    "precisions",
    "random_pairs",
    "read_features",
    "read_tables",
    "recalls",
    "recovery_errors",
    "seam_energies",
    "standard_rows",
]
