"""Bad input: each parser of the product as a function of bytes, for hypothesis and for a coverage-guided fuzzer."""
