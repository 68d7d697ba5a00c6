"""The command `millrace run`: a manifest becomes a graph of nodes, and the missing ones are made."""
