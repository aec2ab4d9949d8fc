"""What trained models have learned, to look at."""
