"""Images: the sets a user has, their split for the search, and the batches that training takes."""
