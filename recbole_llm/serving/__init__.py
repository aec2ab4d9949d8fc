"""What a trained model is for: recommendations and embeddings by token, out of its run folder."""
