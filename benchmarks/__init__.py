"""Speed and memory beside other ways to do the same; one command a file."""
