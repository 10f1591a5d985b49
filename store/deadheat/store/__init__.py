"""Matrices as blocks: arenas in shared memory, checked streams, and a process that serves both."""
