"""What trains the demo models that `mmpo.demo` ships, and writes their cards."""
