"""The five modalities; importing `clx.modalities.base` registers them."""
