"""`python -m mmpo`, as `accelerate launch -m mmpo train RECIPE --out DIR` needs it."""

from mmpo.cli import main

if __name__ == "__main__":
    main()
