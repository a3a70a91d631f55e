"""Is it right? Backends against the reference, operator by operator."""
