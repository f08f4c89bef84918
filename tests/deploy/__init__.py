"""What `contrib/deploy` promises, without a container runtime: its environments and commands, run as processes."""
