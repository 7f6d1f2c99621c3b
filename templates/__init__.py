"""Jinja kernel templates, a folder for each back end."""
