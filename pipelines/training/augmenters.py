"""Networks that make views: trained by a criterion of their own, beside the objective."""

EVERY, RATE = 2, 5.0
"""Of so many steps one trains them, at so many times the learning rate."""
