class RequestError(RuntimeError):
    """One request failed; the others continue."""
