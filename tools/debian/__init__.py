"""AMD's libraries and compiler out of Debian's suites, without root."""
