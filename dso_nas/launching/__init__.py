"""Starting the processes of a distributed run, and ending all of them when one fails."""
