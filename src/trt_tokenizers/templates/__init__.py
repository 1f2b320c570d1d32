"""Chat messages -> prompt text. Named templates are Jinja files in ``named/``; one renderer."""
