"""Small files in two copies: the term and the vote, the members that were met, and whose directory it is.

`storage` and `opening` use it. It refuses to know the log. Start reading at `meta`.
"""
