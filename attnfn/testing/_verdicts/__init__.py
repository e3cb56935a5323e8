"""What a function answered, and what is to be said of it."""
