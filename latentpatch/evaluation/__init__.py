"""Evaluation: metrics of quality and of copying, the protocol that measures samplers, and its tables."""

from ..lazy import attach
from .bootstrap import bootstrap as bootstrap  # at once: a lazy name would give way to the module of the same name

_EXPORTS = {
    ".descriptors": ("OnnxDescriptor", "OnnxInput", "find_descriptor"),
    ".experiments": ("COPIER", "Row", "RowError", "parse_row", "read_tables", "standard_rows"),
    ".features": ("BUILT_IN", "Extractor", "load_extractor", "read_features"),
    ".identity": ("Identity", "membership_auc"),
    ".identity_audit": ("IdentityAudit", "audit_identity"),
    ".memorization": ("Recovery", "measure_memorization", "recovery_errors"),
    ".metrics": (
        "coverages",
        "densities",
        "frechet_distance",
        "kernel_distance",
        "kolmogorov_smirnov",
        "leading_directions",
        "precisions",
        "psnr",
        "random_pairs",
        "recalls",
    ),
    ".protocol": ("Evaluation", "Protocol"),
    ".seams": ("seam_energies",),
}
__getattr__, __dir__ = attach(__name__, _EXPORTS)
