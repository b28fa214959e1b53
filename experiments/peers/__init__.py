"""Scripts that time other libraries, each in an environment of its own. See README.md."""
