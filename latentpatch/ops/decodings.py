"""Names of decodings, the ways from an index map to images; importing this module imports no torch."""

from __future__ import annotations

__all__ = ["DECODINGS", "DECODING_HELP"]

#: Decodings by name, see :meth:`LatentPatch.generate`.
DECODINGS = ("detail", "blend", "gather", "unproject")

#: One sentence a decoding, for help.
DECODING_HELP = {
    "detail": "blend latents, and add the sources' residuals (default with residuals)",
    "blend": "copy latents, and smooth the steps where sources meet (default without residuals)",
    "gather": "copy latents unchanged (default of the paper's samplers)",
    "unproject": "decode latents from their principal components, as the paper does",
}
