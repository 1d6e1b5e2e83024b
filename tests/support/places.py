"""The path of the tree under test."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
