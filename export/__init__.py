"""From a checkpoint to a bundle: fold the weights, build the graphs, check them against torch, publish."""
