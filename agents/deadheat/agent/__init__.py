"""The agent: watches one machine, and multiplies on it what the scheduler assigns."""
