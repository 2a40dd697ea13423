"""Metrics: short pure functions, and the evaluation that prints them."""
