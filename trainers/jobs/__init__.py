"""Training jobs: their store, what a run records in it, and how they are started and stopped."""
