"""Towers, heads and the objective: how they are built, checked and asked for scores."""
