"""What a trained model is used for: zero-shot, embeddings, search, predictions, export."""
