"""A sealed-bid auction that nobody can look into."""
