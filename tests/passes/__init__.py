"""From the graph of a file to a program over frames."""
