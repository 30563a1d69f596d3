"""Embed once, then run every task."""
