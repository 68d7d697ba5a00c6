"""Documents that a model writes of others, through an endpoint."""
