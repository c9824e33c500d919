"""The words every Backpropagate package shares. Standard library only."""
