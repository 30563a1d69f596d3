"""Whole jobs: train, sweep, bench."""
