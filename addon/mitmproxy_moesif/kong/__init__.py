"""Reads Kong's configuration: services, routes, consumers, and the `moesif` plugins, which are our instances.

compatible   converts routes without an expression to expressions with priorities
declarative  Kong's file, or the Admin API's listings, as one `KongConfig`
document     a parsed file, and errors with file and line
entities     Kong's entities, validated and immutable (test: kong/test_declarative.py)
errors       Kong's constraints, worded as Kong words them (test: admin/test_source.py)
expression_router  finds a request's route, in any flavour of Kong's router
expressions  compiles the language of router expressions
indexes      finds the conditions of routes that a request meets
normalize    path and query as Kong's router sees them
overlay      changes from the Admin API, applied on top of Kong's configuration (test: admin/test_kong_plugins.py)
patterns     regular expressions of a Kong file
placeholders  replaces references to environment variables by their values
resolver     finds a request's instance (test: test_kong_config.py)
router       finds a request's route, in the flavour `traditional`
scopes       chooses the plugin that applies: Kong's scopes and precedence
sorting      sorts routes as Kong does, also where its order leaves a choice
source       watches the file, or polls Kong's Admin API (test: test_kong_config.py)
"""
