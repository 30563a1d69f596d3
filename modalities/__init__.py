"""The five modalities. `clx.modalities.registry` has them all by kind."""
