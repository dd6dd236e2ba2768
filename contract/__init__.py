"""What the offline and the online side agree on: features, bundles, Redis values, requests and responses."""
