"""The public API of `import mmpo`: `model` (load, ask, score), `work` (build, train, evaluate, convert), and the
records they return. Above everything but the command line, which uses it."""
