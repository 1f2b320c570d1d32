"""Data that the processes of one server exchange."""
