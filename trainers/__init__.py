"""Training: data sets, loops and recipes for frame flexible networks."""
