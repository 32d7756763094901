"""Verified weight files -> parameters."""
