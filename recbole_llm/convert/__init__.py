"""Public datasets as they are handed out -> atomic files and texts; one module a format."""
