"""Rows become tensors."""
