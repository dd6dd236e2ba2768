"""Bundle and Redis in, HTTP out: the ranking service. Never sees torch."""
