"""Models on one device and how they run. With devices and demo_models the only package that may import torch."""
