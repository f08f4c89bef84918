"""Tools for testing disheap and its plugins. Nothing in a running node or client imports them."""
