"""Encoders: queries and documents to embeddings, each text by itself."""
