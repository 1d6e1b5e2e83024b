"""A local hub: serve a folder of models over the Hub's protocol to unmodified huggingface_hub clients."""
