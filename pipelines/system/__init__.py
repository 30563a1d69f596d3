"""The machine: files that survive, signals, devices, threads, progress. Knows nothing of clx."""
