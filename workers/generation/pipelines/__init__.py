"""What is loaded on one device and how it runs. The only package, with devices and demo_models, that knows torch."""
