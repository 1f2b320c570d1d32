"""What a model folder, an engine and a GPU hold, and the plan made of it."""
