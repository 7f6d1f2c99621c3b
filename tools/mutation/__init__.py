"""Small semantic mutations of this repository's own code, and the tests that stand nearest to it."""
