"""Functions of tensors alone: ranking, errors, intervals, geometry, probes. Knows nothing of clx."""
