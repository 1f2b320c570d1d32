"""Request text -> engine request, and engine step -> text."""
