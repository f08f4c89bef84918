"""A distribution that disheap does not know: codec `xor`, transport `muffled`."""
