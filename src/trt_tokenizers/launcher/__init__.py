"""Start, watch, drain and end the ranks of a deployment."""
