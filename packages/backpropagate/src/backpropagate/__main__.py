"""`python -m backpropagate` is `backprop`, for launchers that start a module."""

from .cli.app import main

if __name__ == "__main__":
    main()
