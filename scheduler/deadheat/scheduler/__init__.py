"""The scheduler: a pure planner, a sans-IO core, and the daemon that carries out what they say."""
