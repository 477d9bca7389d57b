"""Stateless tensor operations that methods share."""
