"""One look at the machine: what is here, what is wrong, and the command that helps."""
