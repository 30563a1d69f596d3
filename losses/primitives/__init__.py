"""What the losses are made of: log-sum-exps over all pairs or tuples of rows, without a tensor of them all."""
