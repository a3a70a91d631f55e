"""The engine: many requests at once on one model, each with the bits it would have alone."""
