"""A bundle and rows in, scores out: the one scorer that export checks with and the service serves with."""
