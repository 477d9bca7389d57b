"""Provenance: maps, explanations, audits, and removal of sources."""
