"""Generation jobs, from parameters to files. Only `pipelines` and `demo_models` may import torch."""
