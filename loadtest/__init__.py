"""Load tests: requests sent on time whatever the service does, scenarios, and a report of what came of them."""
