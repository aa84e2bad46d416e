"""Applications with Moesif's middleware, as processes."""
