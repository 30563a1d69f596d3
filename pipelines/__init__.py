"""From manifest to model, training, evaluation and use."""
