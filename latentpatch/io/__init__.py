"""Pictures, atomic writes, memory-mapped tensors."""
