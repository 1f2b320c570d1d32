"""Preprocessing and postprocessing: request text -> engine request, engine step -> text."""
