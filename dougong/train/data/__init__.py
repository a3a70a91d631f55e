"""Training data: public texts by package name, generators, and the packed stream of both."""
