"""Reading, checking and running a DAG of nodes."""
