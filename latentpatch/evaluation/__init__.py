"""How good generated pictures are, and how much of them is copied."""
