"""The bodies of requests and answers, one typed struct each: validated, encoded and described from here."""
