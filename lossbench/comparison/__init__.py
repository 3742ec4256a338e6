"""Predictions and representations of many runs, compared."""
