"""What is right: attention by plain formula, one query at a time."""
