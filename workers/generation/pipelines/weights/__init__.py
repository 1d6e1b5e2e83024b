"""The weights of a model: read, quantised, prepared, shared between models, changed by LoRAs."""
