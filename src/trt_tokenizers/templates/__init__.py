"""Chat messages -> prompt text. ``named/`` holds the named templates as Jinja files."""
