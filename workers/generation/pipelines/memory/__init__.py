"""Weights in host and device memory: layouts, visits, and freeing memory."""
