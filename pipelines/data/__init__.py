"""A source becomes splits of rows. No torch."""
