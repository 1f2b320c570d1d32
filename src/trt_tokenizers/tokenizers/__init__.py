"""Tokenizer types and the registry that finds them."""
