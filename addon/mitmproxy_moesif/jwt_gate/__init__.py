"""A gate for JSON Web Tokens, off by default: an addon of its own beside Moesif's, which captures what is refused."""
