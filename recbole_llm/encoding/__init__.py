"""Texts and images -> feature files: sources, encoders, a store that never encodes a row twice."""
