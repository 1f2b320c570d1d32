"""What the processes of one server hand each other."""
