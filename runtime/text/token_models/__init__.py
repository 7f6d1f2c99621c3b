"""How plain text becomes tokens, a module a rule."""
