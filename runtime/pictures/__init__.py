"""Images: decoded, made pictures of, and these rows of what the text model reads."""
