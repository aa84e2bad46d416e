"""`make pictures`: what the README shows, made from the real thing."""
