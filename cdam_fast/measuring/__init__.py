"""Measuring the attention map: inputs, timing, reports."""
