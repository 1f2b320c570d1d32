"""The engine on `transformers`."""
