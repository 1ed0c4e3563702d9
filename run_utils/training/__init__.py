"""Training: a straight loop over phases and epochs, and what it needs around it."""
