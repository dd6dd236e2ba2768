"""A made-up world with a known click probability, and the product's main job told step by step on it."""
