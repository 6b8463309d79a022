"""The pages of the training dashboard, and what they share."""
