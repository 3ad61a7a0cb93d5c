"""What a run shows: pictures of blocks, lambdas and the search, tables, and the report of a comparison."""
