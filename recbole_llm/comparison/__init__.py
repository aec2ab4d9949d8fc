"""Comparisons of models under one protocol: plan, execution, statistics. Everything in a table comes from records."""
