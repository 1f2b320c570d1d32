"""Make, fill, check and adopt model repositories."""
