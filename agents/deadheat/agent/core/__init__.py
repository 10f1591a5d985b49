"""The agent's decisions, without I/O: what it holds, in which phase, and what it owes."""
