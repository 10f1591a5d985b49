"""What is kept: every node, plan and placement, predicted and actual, in the database."""
