"""Kong's configuration as ours: services, routes, consumers, and the `moesif` plugins that are our instances.

compatible   routes without an expression, as expressions with priorities
declarative  Kong's file, and the Admin API's listings, as one `KongConfig`
document     a file as it was read, and errors that name file and line
entities     Kong's entities, validated and immutable (test: kong/test_declarative.py)
errors       Kong's constraints in Kong's own words (test: admin/test_source.py)
expression_router  which route a request is on, in any flavour of Kong's router
expressions  the language of those, compiled
indexes      which conditions of the routes a request meets
normalize    path and query as Kong's router sees them
overlay      what the Admin API lays over Kong's configuration (test: admin/test_kong_plugins.py)
patterns     regular expressions of a Kong file
placeholders  what stands for a value from the environment
resolver     which instance a request is for (test: test_kong_config.py)
router       the same in the flavour `traditional`
scopes       which plugin applies: Kong's scopes and precedence
source       watches the file, or asks Kong's Admin API (test: test_kong_config.py)
"""
