"""Training of the demo models that `mmpo.demo` ships, and their model cards."""
